// The vectors of a store as a search reads them: float32 rows that lie elsewhere (a mapped file),
// and beside them in memory 8-bit codes, a quarter of the bytes.
//
// A row x is held as scale * code + r, codes from -127 to 127, and the length of r is kept. With a
// query q = scale_q * code_q + r_q, of 14 bits, an inner product is
//
//   |q x - scale_q scale (code_q code)| <= |q| |r| + |r_q| (|x| + |r|)
//
// (Cauchy and Schwarz), up to float32's own rounding. So a scan reads the codes of all rows, drops
// those that cannot be among the k best, and decides the rest in float32: what it finds is what a
// scan of the float32 rows finds, to the last bit.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <unordered_map>
#include <vector>

#include "index/pages.h"

#define HYBRIDRET_INLINE [[gnu::always_inline]] inline

namespace hybridret::index {

struct Hit {
  int64_t row;
  float score;  // inner product
};

// Best first; equal scores by row.
inline bool better(const Hit& a, const Hit& b) {
  return a.score != b.score ? a.score > b.score : a.row < b.row;
}

// A query in float32 and 14 bits.
struct Query {
  Query(const float* values, int64_t depth);
  const float* values;
  std::vector<int16_t> codes;
  float scale, norm, error;
};

// Rows that a search may return: those whose byte is not 0; their numbers, ascending. Rows that
// came to the table later are not among them.
struct Subset {
  const uint8_t* admitted;
  int64_t size;  // of `admitted`
  const uint32_t* rows;
  int64_t count;

  bool has(int64_t row) const { return row < size && admitted[row] != 0; }
};

// Any number of threads may read while none changes it: callers lock, see Lock.
class Table {
 public:
  explicit Table(int64_t depth);

  // The rows lie at `vectors` now: those of before, perhaps elsewhere, and new ones, which get
  // codes. Throws std::invalid_argument when a new value is not finite; then nothing has changed.
  void extend(const float* vectors, int64_t count, int threads);
  // Rows that no search returns any more. Throws std::invalid_argument for a row that is not there.
  void remove(const uint32_t* rows, int64_t count);

  int64_t depth() const { return depth_; }
  int64_t size() const { return static_cast<int64_t>(steps_.size()); }
  int64_t live() const { return live_; }
  bool alive(int64_t row) const { return (states_[static_cast<size_t>(row)] & kAlive) != 0; }
  // Whether a later row has the same vector, see next().
  bool chained(int64_t row) const { return (states_[static_cast<size_t>(row)] & kChained) != 0; }
  const float* vector(int64_t row) const { return vectors_ + row * depth_; }
  const int8_t* code(int64_t row) const { return codes_.data() + row * stride_; }

  // The first row with the same vector, and the next one, or -1.
  uint32_t first(int64_t row) const { return first_[static_cast<size_t>(row)]; }
  int64_t next(int64_t row) const { return next_[static_cast<size_t>(row)]; }

  // About the inner product: the codes' product times query.scale * step(row); and in float32.
  float step(int64_t row) const { return steps_[static_cast<size_t>(row)]; }
  float score(const Query& query, int64_t row) const;
  // Standard deviation of the error of the former, as if each code were at random up to half a
  // step from its value.
  float deviation(const Query& query, int64_t row) const {
    return query.norm * step(row) / std::sqrt(12.0f);
  }
  // Brings a row's codes and their step into the cache. HYBRIDRET_INLINE, for GCC takes a function
  // that only prefetches for one without effect, and leaves its calls out.
  HYBRIDRET_INLINE void fetch(int64_t row) const {
    const int8_t* codes = code(row);
    for (int64_t at = 0; at < depth_; at += 64) __builtin_prefetch(codes + at);
    __builtin_prefetch(&steps_[static_cast<size_t>(row)]);
  }

  // The k best live rows from row `from` on, of the subset if there is one; exact.
  std::vector<Hit> scan(const Query& query, int64_t k, const Subset* subset, int64_t from) const;

 private:
  struct Lengths {
    float row, missed;  // of a row, and of what its codes miss
  };
  void encode(int64_t row);

  const int64_t depth_, stride_;  // stride: bytes from code to code, a multiple of 64
  const float* vectors_ = nullptr;
  std::vector<int8_t, HugePages<int8_t>> codes_;
  std::vector<float> steps_;  // of the codes
  std::vector<Lengths> lengths_;
  static constexpr uint8_t kAlive = 1, kChained = 2;
  std::vector<uint8_t> states_;
  std::vector<uint32_t> first_, last_;  // last: of the rows with the vector of a first row
  std::vector<int64_t> next_;
  std::unordered_multimap<uint64_t, uint32_t> by_hash_;  // first rows
  int64_t live_ = 0;
};

}  // namespace hybridret::index
