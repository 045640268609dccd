#include "similarity/threads.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace hybridret::similarity {
namespace {

struct Job {
  const std::function<void(int64_t)>* work;
  int64_t items;
  std::atomic<int64_t> next{0};
  std::mutex error_lock;
  std::exception_ptr error;

  void run() noexcept {
    for (int64_t item = next.fetch_add(1); item < items; item = next.fetch_add(1)) {
      try {
        (*work)(item);
      } catch (...) {
        std::lock_guard<std::mutex> guard(error_lock);
        if (!error) error = std::current_exception();
      }
    }
  }
};

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Waits for done() without sleeping; yields now and then, in case there are too few processors.
template <class Done>
void spin(const Done& done) {
  for (int turn = 1; !done(); ++turn) {
    if (turn % 1024 == 0)
      std::this_thread::yield();
    else
      pause();
  }
}

class Pool {
 public:
  // True when this call got the pool and ran the job; false when another caller holds it.
  bool try_run(Job& job, int helpers) {
    std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner.owns_lock()) return false;
    try {
      while (static_cast<int>(threads_.size()) < helpers)
        threads_.emplace_back([this, index = threads_.size()] { serve(static_cast<int>(index)); });
    } catch (const std::system_error&) {  // a limit on threads: use those that have started
      helpers = static_cast<int>(threads_.size());
    }
    {
      std::lock_guard<std::mutex> guard(lock_);
      job_ = &job;
      helpers_ = helpers;
      busy_.store(helpers, std::memory_order_relaxed);
      generation_.fetch_add(1, std::memory_order_release);
    }
    if (sleeping_.load() > 0) wake_.notify_all();
    job.run();
    // No item is left to start: the others finish soon.
    spin([this] { return busy_.load(std::memory_order_acquire) == 0; });
    return true;
  }

  std::atomic<int> spinning{0};  // threads that spin between jobs: those with a smaller index

 private:
  void serve(int index) {
    uint64_t seen = 0;
    const auto called = [&] { return generation_.load(std::memory_order_acquire) != seen; };
    for (;;) {
      spin([&] { return called() || index >= spinning.load(std::memory_order_relaxed); });
      Job* job;
      {
        std::unique_lock<std::mutex> guard(lock_);
        sleeping_.fetch_add(1);
        wake_.wait(guard, called);
        sleeping_.fetch_sub(1);
        seen = generation_.load(std::memory_order_relaxed);
        if (index >= helpers_) continue;
        job = job_;
      }
      job->run();
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::mutex owner_, lock_;
  std::condition_variable wake_;
  std::vector<std::thread> threads_;
  Job* job_ = nullptr;
  int helpers_ = 0;
  std::atomic<int> busy_{0}, sleeping_{0};
  std::atomic<uint64_t> generation_{0};
};

using GompParallel = void (*)(void (*function)(void*), void* data, unsigned threads,
                              unsigned flags);
std::atomic<GompParallel> gomp_parallel{nullptr};

// Never destroyed: its threads may still wait on it while the process exits.
std::atomic<Pool*> current_pool{nullptr};

std::atomic<bool> forked{false};

Pool& pool() {
  watch_forks();
  return *current_pool;
}

}  // namespace

void parallel_for(int64_t items, int threads, const std::function<void(int64_t)>& work) {
  Job job;
  job.work = &work;
  job.items = items;
  const int helpers = static_cast<int>(std::min<int64_t>(threads, items)) - 1;
  if (helpers <= 0) {
    job.run();
  } else if (const GompParallel shared = gomp_parallel.load()) {
    shared([](void* data) { static_cast<Job*>(data)->run(); }, &job,
           static_cast<unsigned>(helpers + 1), 0);
  } else if (!pool().try_run(job, helpers)) {
    job.run();
  }
  if (job.error) std::rethrow_exception(job.error);
}

ParallelScope::ParallelScope(int threads) : spinning_(&pool().spinning) {
  spinning_->store(threads - 1, std::memory_order_relaxed);
}

ParallelScope::~ParallelScope() { spinning_->store(0, std::memory_order_relaxed); }

void watch_forks() {
  static const int registered = [] {
    current_pool = new Pool;
    return pthread_atfork(nullptr, nullptr, [] {
      // The threads of the old pool do not exist in the child, and its locks may be held: leave it.
      current_pool = new Pool;
      gomp_parallel = nullptr;
      forked = true;
    });
  }();
  (void)registered;
}

bool share_openmp(const char* path) {
#if defined(__linux__)
  if (forked) return false;
  void* library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
  if (library) gomp_parallel = reinterpret_cast<GompParallel>(dlsym(library, "GOMP_parallel"));
  return gomp_parallel != nullptr;
#else
  (void)path;
  return false;
#endif
}

int default_threads() {
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
#if defined(__linux__)
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof(mask), &mask) == 0) threads = std::max(1, CPU_COUNT(&mask));
  // A container's share of processors (cgroup v2): "max 100000", or microseconds and their period.
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (file >> quota >> period && quota != "max" && period > 0) {
    const int share = static_cast<int>(std::ceil(std::atof(quota.c_str()) / period));
    threads = std::max(1, std::min(threads, share));
  }
#endif
  return threads;
}

#if defined(HYBRIDRET_X86)
ExactFloats::ExactFloats() : before_(__builtin_ia32_stmxcsr()) {
  constexpr unsigned kFlushToZero = 1u << 15, kDenormalsAreZero = 1u << 6;
  __builtin_ia32_ldmxcsr(before_ & ~(kFlushToZero | kDenormalsAreZero));
}
ExactFloats::~ExactFloats() { __builtin_ia32_ldmxcsr(before_); }
#else
ExactFloats::ExactFloats() = default;
ExactFloats::~ExactFloats() = default;
#endif

}  // namespace hybridret::similarity
