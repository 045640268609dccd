// Multiply-adds on registers alone: what no kernel on this machine can exceed.
// Prints GFLOP/s of all threads together, one line a format.
#include <immintrin.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int kChains = 12, kTurns = 20000;

template <class Turn>
double rate(double flops_a_turn, Turn turn) {
  using Clock = std::chrono::steady_clock;
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    const auto begin = Clock::now();
    long turns = 0;
    double seconds;
    do {
      for (int i = 0; i < kTurns; ++i) turn();
      turns += kTurns;
      seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    } while (seconds < 0.05);
    const double found = turns * flops_a_turn / seconds / 1e9;
    best = found > best ? found : best;
  }
  return best;
}

#if defined(__AVX512F__)
double float32() {
  __m512 sums[kChains] = {}, x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(0.001f);
  const double found = rate(kChains * 32.0, [&] {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm512_fmadd_ps(sum, x, y);
    asm volatile("" : "+v"(x));
  });
  volatile float sink = 0;
  for (auto& sum : sums) sink = sink + _mm512_reduce_add_ps(sum);
  return found;
}
#elif defined(__AVX2__)
double float32() {
  __m256 sums[kChains] = {}, x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f);
  const double found = rate(kChains * 16.0, [&] {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm256_fmadd_ps(sum, x, y);
    asm volatile("" : "+x"(x));
  });
  volatile float sink = 0;
  for (auto& sum : sums) sink = sink + sum[0];
  return found;
}
#endif

#if defined(__AMX_BF16__)
struct alignas(64) Shapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
double bfloat16() {
  const Shapes shapes;
  _tile_loadconfig(&shapes);
  alignas(64) static char zeros[1024];
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, zeros, 64);
  _tile_loadd(5, zeros, 64);
  _tile_loadd(6, zeros, 64);
  _tile_loadd(7, zeros, 64);
  const double found = rate(4 * 16 * 16 * 32 * 2.0, [] {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  });
  _tile_release();
  return found;
}
#elif defined(__AVX512BF16__)
double bfloat16() {
  __m512 sums[kChains] = {};
  __m512i x = _mm512_set1_epi16(0x3f00);
  const double found = rate(kChains * 64.0, [&] {
#pragma GCC unroll 12
    for (auto& sum : sums)
      sum = _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(x));
    asm volatile("" : "+v"(x));
  });
  volatile float sink = 0;
  for (auto& sum : sums) sink = sink + _mm512_reduce_add_ps(sum);
  return found;
}
#endif

void print(const char* format, double (*measure)(), int threads) {
  std::vector<double> rates(threads);
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back([&, t] { rates[t] = measure(); });
  rates[0] = measure();
  for (auto& other : others) other.join();
  double total = 0;
  for (double r : rates) total += r;
  std::printf("%s %.1f\n", format, total);
}

}  // namespace

int main(int count, char** arguments) {
  const int threads = count > 1 ? std::atoi(arguments[1]) : 1;
#if defined(__AVX512F__) || defined(__AVX2__)
  print("float32", float32, threads);
#endif
#if defined(__AMX_BF16__) && defined(__linux__)
  if (syscall(SYS_arch_prctl, 0x1023, 18) == 0) print("bfloat16", bfloat16, threads);
#elif defined(__AVX512BF16__)
  print("bfloat16", bfloat16, threads);
#endif
}
