#include "index/table.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>

#include "similarity/kernel.h"
#include "similarity/threads.h"

namespace hybridret::index {
namespace {

constexpr int64_t kLine = 64;     // bytes of a cache line
constexpr int64_t kAhead = 8;     // rows that are fetched before they are needed
constexpr int64_t kBlock = 4096;  // rows that a thread encodes at a time

float norm_of(const float* values, int64_t depth) {
  double square = 0;
  for (int64_t k = 0; k < depth; ++k) square += static_cast<double>(values[k]) * values[k];
  // Rounded up, so that a bound stays one.
  return static_cast<float>(std::sqrt(square) * (1 + 1e-6));
}

// Codes from -most to most; returns the step and the length of what they miss.
template <class Code>
void quantize(const float* values, int64_t depth, int64_t most, Code* codes, float* step,
              float* error) {
  float largest = 0;
  for (int64_t k = 0; k < depth; ++k) largest = std::max(largest, std::fabs(values[k]));
  *step = largest / static_cast<float>(most);
  const float inverse = largest > 0 && std::isfinite(1 / *step) ? 1 / *step : 0;
  double square = 0;
  for (int64_t k = 0; k < depth; ++k) {
    codes[k] = static_cast<Code>(std::lrintf(values[k] * inverse));
    const double missed = values[k] - static_cast<double>(*step) * codes[k];
    square += missed * missed;
  }
  *error = static_cast<float>(std::sqrt(square) * (1 + 1e-6));
}

uint64_t hash_of(const float* values, int64_t depth) {
  uint64_t hash = 0x9E3779B97F4A7C15u;
  for (int64_t k = 0; k < depth; ++k) {
    uint32_t bits;
    std::memcpy(&bits, values + k, sizeof(bits));
    hash = (hash ^ bits) * 0xD6E8FEB86659FD93u;
    hash ^= hash >> 32;
  }
  return hash;
}

}  // namespace

Query::Query(const float* given, int64_t depth) : values(given), codes(depth) {
  // Of 14 bits, or so many that sums of products with 8-bit codes fit 31.
  const int64_t most = std::min<int64_t>(8191, std::numeric_limits<int32_t>::max() / (127 * depth));
  quantize(values, depth, most, codes.data(), &scale, &error);
  norm = norm_of(values, depth);
}

Table::Table(int64_t depth) : depth_(depth), stride_((depth + kLine - 1) / kLine * kLine) {
  if (depth < 1 || depth > 1 << 20)
    throw std::invalid_argument("a dimension must be from 1 to 2^20, got " + std::to_string(depth));
}

void Table::encode(int64_t row) {
  const size_t at = static_cast<size_t>(row);
  quantize(vector(row), depth_, 127, codes_.data() + row * stride_, &steps_[at],
           &lengths_[at].missed);
  lengths_[at].row = norm_of(vector(row), depth_);
}

void Table::extend(const float* vectors, int64_t count, int threads) {
  const int64_t before = size();
  if (count < before || count > std::numeric_limits<int32_t>::max())
    throw std::invalid_argument("a table of " + std::to_string(before) + " rows cannot have " +
                                std::to_string(count));
  for (int64_t i = before * depth_; i < count * depth_; ++i)
    if (!std::isfinite(vectors[i]))
      throw std::invalid_argument("row " + std::to_string(i / depth_) +
                                  " has a value that is not finite");
  const size_t rows = static_cast<size_t>(count);
  by_hash_.reserve(rows);
  codes_.resize(rows * static_cast<size_t>(stride_));
  steps_.resize(rows);
  lengths_.resize(rows);
  states_.resize(rows, kAlive);
  first_.resize(rows);
  last_.resize(rows);
  next_.resize(rows, -1);
  vectors_ = vectors;
  live_ += count - before;
  const int64_t blocks = (count - before + kBlock - 1) / kBlock;
  std::vector<uint64_t> hashes(rows - static_cast<size_t>(before));
  similarity::parallel_for(blocks, threads, [&](int64_t block) {
    const int64_t end = std::min(count, before + (block + 1) * kBlock);
    for (int64_t row = before + block * kBlock; row < end; ++row) {
      encode(row);
      hashes[static_cast<size_t>(row - before)] = hash_of(vector(row), depth_);
    }
  });
  for (int64_t row = before; row < count; ++row) {
    const uint32_t number = static_cast<uint32_t>(row);
    const uint64_t hash = hashes[static_cast<size_t>(row - before)];
    uint32_t first = number;
    const auto range = by_hash_.equal_range(hash);
    for (auto at = range.first; at != range.second; ++at)
      if (std::memcmp(vector(at->second), vector(row), static_cast<size_t>(depth_) * 4) == 0)
        first = at->second;
    first_[number] = first;
    last_[number] = number;
    if (first == number) {
      by_hash_.emplace(hash, number);
    } else {
      next_[last_[first]] = row;
      states_[last_[first]] |= kChained;
      last_[first] = number;
    }
  }
}

void Table::remove(const uint32_t* rows, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    if (rows[i] >= steps_.size())
      throw std::invalid_argument("no row " + std::to_string(rows[i]) + " in a table of " +
                                  std::to_string(size()));
  for (int64_t i = 0; i < count; ++i) {
    live_ -= alive(rows[i]);
    states_[rows[i]] &= static_cast<uint8_t>(~kAlive);
  }
}

float Table::score(const Query& query, int64_t row) const {
  return similarity::active_kernel().dot(query.values, vector(row), depth_);
}

std::vector<Hit> Table::scan(const Query& query, int64_t k, const Subset* subset,
                             int64_t from) const {
  const auto code_dot = similarity::active_kernel().code_dot;
  // Roundings of the float32 product, of the estimate and of the bound itself, see Kernel::dot.
  const float rounding = static_cast<float>(depth_ / 16 + 40) * 0x1p-23f;
  struct Candidate {
    uint32_t row;
    float most;
  };
  std::vector<Candidate> candidates;
  std::vector<float> least;  // heap of the k largest lower bounds, the smallest on top
  float threshold = -std::numeric_limits<float>::infinity();
  const uint32_t* listed = subset ? subset->rows : nullptr;
  const int64_t begin =
      listed ? std::lower_bound(listed, listed + subset->count, from) - listed : from;
  const int64_t end = listed ? subset->count : size();
  for (int64_t i = begin; i < end; ++i) {
    if (listed && i + kAhead < end) {
      const uint32_t later = listed[i + kAhead];
      fetch(later);
      __builtin_prefetch(&lengths_[later]);
    }
    const int64_t row = listed ? listed[i] : i;
    if (!alive(row)) continue;
    const Lengths& length = lengths_[static_cast<size_t>(row)];
    const int32_t product = code_dot(query.codes.data(), code(row), depth_);
    const float about = static_cast<float>(product) * query.scale * step(row);
    const float bound = query.norm * length.missed + query.error * (length.row + length.missed) +
                        rounding * query.norm * length.row;
    // Written so that an estimate that overflowed is kept.
    if (about + bound < threshold) continue;
    candidates.push_back({static_cast<uint32_t>(row), about + bound});
    const float low = about - bound;
    if (std::isnan(low)) continue;  // both overflowed
    if (static_cast<int64_t>(least.size()) < k) {
      least.push_back(low);
      std::push_heap(least.begin(), least.end(), std::greater<float>());
    } else if (low > least.front()) {
      std::pop_heap(least.begin(), least.end(), std::greater<float>());
      least.back() = low;
      std::push_heap(least.begin(), least.end(), std::greater<float>());
    }
    if (static_cast<int64_t>(least.size()) == k) threshold = least.front();
  }
  std::vector<Hit> hits;
  for (const Candidate& candidate : candidates)
    if (!(candidate.most < threshold)) hits.push_back({candidate.row, score(query, candidate.row)});
  const auto last = hits.begin() + std::min<int64_t>(k, static_cast<int64_t>(hits.size()));
  std::partial_sort(hits.begin(), last, hits.end(), better);
  hits.erase(last, hits.end());
  return hits;
}

}  // namespace hybridret::index
