// One lazy pool of threads for the whole extension, or torch's, where there is one.
//
// The number of threads is passed per call. A call made while another one holds the pool runs on
// its caller's thread alone, so that many callers at once do not wait for each other. After fork()
// the child starts with an empty pool (DataLoader workers). Work is split by index only, so results
// do not depend on the number of threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

namespace hybridret::similarity {

// Calls work(item) once for every item in [0, items), on at most `threads` threads; returns when
// all are done. An exception of an item is rethrown here, after the others have ended.
void parallel_for(int64_t items, int threads, const std::function<void(int64_t)>& work);

// While one lives, the threads spin between calls of parallel_for instead of sleeping: waking a
// sleeping processor costs more than a small loss computes. None spins outside, where torch's own
// threads want the processors.
class ParallelScope {
 public:
  explicit ParallelScope(int threads);
  ~ParallelScope();
  ParallelScope(const ParallelScope&) = delete;
  ParallelScope& operator=(const ParallelScope&) = delete;

 private:
  std::atomic<int>* spinning_;
};

// While one lives, this thread neither reads nor writes denormal numbers as zero.
class ExactFloats {
 public:
  ExactFloats();
  ~ExactFloats();
  ExactFloats(const ExactFloats&) = delete;
  ExactFloats& operator=(const ExactFloats&) = delete;

 private:
  unsigned before_ = 0;
};

// From now on parallel_for runs on the OpenMP runtime that torch has loaded, `path` of a libgomp,
// and so on the threads of torch's own operations: those keep spinning after each operation, and
// threads of ours would have to share their processors. False where that library is not loaded, and
// after fork(), which libgomp does not survive.
bool share_openmp(const char* path);

// Gives the child of any later fork() a pool of its own. Called when the extension is loaded, so
// that share_openmp knows of every fork.
void watch_forks();

// Processors this process may use: its affinity mask and its container's share.
int default_threads();

}  // namespace hybridret::similarity
