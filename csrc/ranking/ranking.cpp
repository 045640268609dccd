#include "ranking/ranking.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "ranking/epilogue.h"
#include "ranking/state.h"

namespace hybridret::ranking {
namespace {

using similarity::Bfloat16;
using similarity::Format;
using similarity::kMaximumColumns;
using similarity::kMaximumTileRows;
using similarity::round_up;
using similarity::Split;
using similarity::TileScope;

// Queries and documents are held in the tiles' format a panel at a time. A panel of documents is a
// few blocks, packed at once and shared by all threads; a block has documents of one language.
constexpr int64_t kPanelBytes = int64_t{20} << 20;  // of queries in the tiles' format
constexpr int64_t kBestBytes = int64_t{32} << 20;   // of candidates for the best k
constexpr int64_t kPanelBlocks = 16;                // of documents
// A pair that is looked at again costs about as much as screening eighty.
constexpr double kMostUnsettled = 0.015;

// The length of a vector in the tiles' format and of its difference from the exact one, both
// rounded up.
struct Rounded {
  float length = 0, residual = 0;
};

// to[0, padded) = vector [depth] * factor, rounded, zero past the depth. `scaled` [padded] is
// scratch.
template <class Element>
Rounded round_vector(const Kernel& kernel, const float* vector, double factor, int64_t depth,
                     int64_t padded, float* scaled, Element* to) {
  double square = 0, difference = 0;
  for (int64_t k = 0; k < depth; ++k)
    scaled[k] = static_cast<float>(static_cast<double>(vector[k]) * factor);
  std::fill(scaled + depth, scaled + padded, 0.0f);
  kernel.tiles<Element>().convert(scaled, padded, to);
  if constexpr (std::is_same_v<Element, Bfloat16>) {
    std::vector<float> back(static_cast<size_t>(depth));
    kernel.widen(Format::kBfloat16, to, depth, back.data());
    for (int64_t k = 0; k < depth; ++k) {
      const float error = back[k] - scaled[k];  // exact
      square += static_cast<double>(back[k]) * static_cast<double>(back[k]);
      difference += static_cast<double>(error) * static_cast<double>(error);
    }
  } else {
    square = kernel.exact_dot(scaled, scaled, depth);
  }
  // The slack is for the rounding to float32 before.
  const double length = std::sqrt(square), slack = 0x1p-23 * length;
  return {bound_of(length), bound_of(std::sqrt(difference) + slack)};
}

template <class Element>
class Screen {
 public:
  // For the queries [begin, begin + count), a panel.
  Screen(State& state, int64_t begin, int64_t count)
      : s_(state),
        p_(s_.p_),
        kernel_(s_.kernel_),
        tiles_(kernel_.tiles<Element>()),
        tile_queries_(tiles_.rows),
        tile_documents_(kernel_.columns),
        begin_(begin),
        count_(count),
        depth_(round_up(s_.depth_, tiles_.depth_multiple)),
        queries_(round_up(count, tile_queries_) * depth_),
        along_(static_cast<size_t>(count)),
        across_(static_cast<size_t>(count)),
        packed_(kPanelBlocks * tile_documents_ * depth_) {
    // Each product is added once, of two parts three times; and these leave out the smallest.
    constexpr bool kParts = std::is_same_v<Element, Split<2>>;
    const double rounding =
        ((kParts ? 3 : 1) * static_cast<double>(depth_) + 16) * 0x1p-24 + (kParts ? 0x1p-14 : 0);
    constexpr int64_t kPiece = 64;
    parallel_for((count + kPiece - 1) / kPiece, s_.threads_, [&](int64_t item) {
      const Buffer<float> buffer(s_.depth_), scaled(depth_);
      for (int64_t i = item * kPiece; i < std::min(count, (item + 1) * kPiece); ++i) {
        const Rounded rounded =
            round_vector(kernel_, s_.query_vector(begin_ + i, buffer.get()), s_.factor_[begin_ + i],
                         s_.depth_, depth_, scaled.get(), &queries_[i * depth_]);
        // Thresholds, up to a document's length, are rounded to float as well.
        along_[i] = bound_of(rounded.residual + rounded.length * rounding + 0x1p-22);
        across_[i] = bound_of(rounded.length * (1 + rounding));
      }
    });
  }

  // Screens the documents from `position` on. Returns the position after the last one: earlier than
  // the end if it may end and too little is settled.
  int64_t operator()(int64_t position, bool may_end) {
    while (position < p_.documents.rows) {
      const int64_t first = position;
      position = pack(position);
      const int64_t before = s_.unsettled_;
      // The queries of a piece, as given and in the tiles' format, stay in the second-level cache.
      const int64_t query_bytes = depth_ * static_cast<int64_t>(sizeof(Element) + sizeof(float));
      const int64_t queries = std::max(
          tile_queries_, kernel_.cache_bytes * 2 / 3 / query_bytes / tile_queries_ * tile_queries_);
      const int64_t most = round_up((count_ + s_.threads_ - 1) / s_.threads_, tile_queries_);
      const int64_t step = std::min(queries, most);
      parallel_for((count_ + step - 1) / step, s_.threads_,
                   [&](int64_t item) { score(item * step, std::min(count_, (item + 1) * step)); });
      const double pairs = static_cast<double>(count_) * static_cast<double>(position - first);
      if (may_end && static_cast<double>(s_.unsettled_ - before) > kMostUnsettled * pairs) break;
    }
    return position;
  }

 private:
  struct Block {
    int64_t first, count, language;  // positions [first, first + count)
    float length = 0, residual = 0;  // the largest of its documents'
  };

  struct Document {
    double length, weight;  // what its inner products are multiplied by
  };

  // Packs a panel of documents; returns the position after it.
  int64_t pack(int64_t position) {
    blocks_.clear();
    auto language =
        std::upper_bound(s_.language_begin_.begin(), s_.language_begin_.end(), position) -
        s_.language_begin_.begin() - 1;
    while (position < p_.documents.rows && static_cast<int64_t>(blocks_.size()) < kPanelBlocks) {
      while (position == s_.language_begin_[language + 1]) ++language;
      const int64_t count = std::min(tile_documents_, s_.language_begin_[language + 1] - position);
      blocks_.push_back({position, count, static_cast<int64_t>(language)});
      position += count;
    }
    documents_.resize(blocks_.size() * static_cast<size_t>(tile_documents_));
    parallel_for(static_cast<int64_t>(blocks_.size()), s_.threads_, [&](int64_t n) {
      Block& block = blocks_[n];
      const Buffer<float> buffer(s_.depth_), scaled(depth_);
      const Buffer<Element> documents(tile_documents_ * depth_);
      for (int64_t c = 0; c < block.count; ++c) {
        const int64_t j = s_.document_at(block.first + c);
        const float* vector = float_row(p_.documents, j, buffer.get());
        const double length = checked_length(kernel_, vector, s_.depth_, false, j, p_.cosine);
        const double weight = p_.cosine ? 1 / length : 1;
        documents_[n * tile_documents_ + c] = {length, weight};
        const Rounded rounded = round_vector(kernel_, vector, weight, s_.depth_, depth_,
                                             scaled.get(), &documents[c * depth_]);
        block.length = std::max(block.length, rounded.length + rounded.residual);
        block.residual = std::max(block.residual, rounded.residual);
      }
      pack_block(kernel_, documents.get(), depth_, block.count, depth_,
                 &packed_[n * tile_documents_ * depth_]);
    });
    return position;
  }

  // The queries [first, end) of their panel against the panel of documents.
  void score(int64_t first, int64_t end) {
    const TileScope scope(kernel_);
    alignas(64) float tile[kMaximumTileRows * kMaximumColumns];
    const int64_t begin = p_.target_begin[begin_ + first];
    Own own(s_.depth_, p_.target_begin[begin_ + end] - begin);
    for (size_t n = 0; n < blocks_.size(); ++n) {
      const Block& block = blocks_[n];
      const Element* documents = &packed_[static_cast<int64_t>(n) * tile_documents_ * depth_];
      for (int64_t i = first; i < end; i += tile_queries_) {
        tiles_.tile(depth_, &queries_[i * depth_], depth_, tile_documents_, documents, tile,
                    tile_documents_, false);
        uint32_t reaching = kernel_.scorer.queries_reaching(
            tile, std::min(tile_queries_, end - i), &s_.lowest_[begin_ + i], &along_[i],
            &across_[i], block.length, block.residual);
        for (; reaching != 0; reaching &= reaching - 1) {
          const int64_t q = __builtin_ctz(reaching);
          look(i + q, tile + q * tile_documents_, block, &documents_[n * tile_documents_], begin,
               own);
        }
      }
      settle(block, &documents_[n * tile_documents_], own);
      if (n + 1 == blocks_.size() || blocks_[n + 1].language != block.language)
        write_counts(begin, block.language, own.above);
    }
    s_.unsettled_ += own.unsettled;
  }

  // A pair that screening left undecided.
  struct Pending {
    int64_t query;
    int column;  // which document of the block
    float score, bound;
  };

  // Scratch of one piece.
  struct Own {
    Own(int64_t depth, int64_t targets)
        : query(depth), document(depth), above(static_cast<size_t>(targets)) {}
    Buffer<float> query, document;
    std::vector<int32_t> above;    // by target of these queries, of one language
    std::vector<Pending> pending;  // of one block
    int64_t unsettled = 0;
  };

  void write_counts(int64_t begin, int64_t language, std::vector<int32_t>& above) {
    for (size_t t = 0; t < above.size(); ++t)
      s_.out_.above[s_.target_[begin + static_cast<int64_t>(t)] * p_.languages + language] +=
          above[t];
    std::fill(above.begin(), above.end(), 0);
  }

  // One query against one block in which some document reaches its lowest threshold.
  void look(int64_t i, const float* scores, const Block& block, const Document* documents,
            int64_t first_target, Own& own) {
    const int64_t query = begin_ + i, begin = p_.target_begin[query];
    const uint32_t valid = ~uint32_t{0} >> (32 - block.count);
    const float bound = along_[i] * block.length + across_[i] * block.residual;
    uint32_t unsure = kernel_.scorer.screen(scores, valid, p_.target_begin[query + 1] - begin,
                                            &s_.threshold_[begin], bound,
                                            own.above.data() + (begin - first_target));
    for (; unsure != 0; unsure &= unsure - 1) {
      const int column = __builtin_ctz(unsure);
      own.pending.push_back({query, column, scores[column], bound});
    }
    if (s_.out_.k == 0) return;
    const float floor = s_.best_floor(query);
    if (!kernel_.scorer.queries_reaching(scores, 1, &floor, &along_[i], &across_[i], block.length,
                                         block.residual))
      return;
    for (int64_t c = 0; c < block.count; ++c)
      if (scores[c] + bound >= floor)
        s_.offer(query, {scores[c] - bound, scores[c] + bound, s_.document_at(block.first + c),
                         documents[c].weight});
  }

  void settle(const Block& block, const Document* documents, Own& own) {
    for (const Pending& pair : own.pending) settle(pair, block, documents[pair.column], own);
    own.unsettled += static_cast<int64_t>(own.pending.size());
    own.pending.clear();
  }

  // In float32, whose error is far smaller and which costs a quarter of double, then in double.
  void settle(const Pending& pair, const Block& block, const Document& document, Own& own) {
    const int64_t j = s_.document_at(block.first + pair.column), order = p_.tie_order[j];
    const float* q = s_.query_vector(pair.query, own.query.get());
    const float* d = float_row(p_.documents, j, own.document.get());
    // In units of the query's length, as the thresholds; 0 and infinite: not known.
    const double factor = s_.factor_[pair.query], size = document.length / factor;
    const bool ordinary = size > 1e-20 && size < 1e30;  // no product is denormal or overflows
    const double near = ordinary ? kernel_.dot(q, d, s_.depth_) * document.weight * factor : 0;
    const double bound = ordinary ? (static_cast<double>(s_.depth_) / 16 + 40) * 0x1p-24 *
                                        document.length * document.weight
                                  : std::numeric_limits<double>::infinity();
    double score = 0;
    bool known = false;
    for (int64_t t = p_.target_begin[pair.query]; t < p_.target_begin[pair.query + 1]; ++t) {
      // The same comparisons as the screen's.
      if (!(pair.score >= s_.threshold_[t] - pair.bound)) break;
      if (pair.score > s_.threshold_[t] + pair.bound) continue;
      const int64_t target = s_.target_[t];
      if (p_.target_order[target] == order) continue;  // the target itself
      const int64_t place = target * p_.languages + block.language;
      const double distance = near - p_.target_scores[target] * factor;
      if (std::abs(distance) > bound) {
        s_.out_.above[place] += distance > 0;
        continue;
      }
      if (!known) score = kernel_.exact_dot(q, d, s_.depth_) * document.weight;
      known = true;
      const bool tied = score == p_.target_scores[target];
      const bool later = order > p_.target_order[target];
      if (tied ? !later : score > p_.target_scores[target]) ++s_.out_.above[place];
      if (tied && s_.out_.tied) ++s_.out_.tied[2 * place + later];
    }
  }

  State& s_;
  const Problem& p_;
  const Kernel& kernel_;
  const similarity::TileKernel<Element>& tiles_;
  const int64_t tile_queries_, tile_documents_;
  const int64_t begin_, count_;  // the panel of queries
  const int64_t depth_;          // padded for the tiles
  const Buffer<Element> queries_;
  // By query: the bound on a score's error is along * a document's length + across * its residual.
  std::vector<float> along_, across_;
  const Buffer<Element> packed_;
  std::vector<Block> blocks_;
  std::vector<Document> documents_;  // [blocks, tile_documents_]
};

// How many queries a panel has, so that it and its candidates stay within their limits.
template <class Element>
int64_t panel_queries(const State& s, int64_t k) {
  const int64_t bytes = std::max<int64_t>(s.depth_, 1) * static_cast<int64_t>(sizeof(Element));
  int64_t queries = kPanelBytes / bytes;
  if (k > 0)
    queries =
        std::min(queries, kBestBytes / ((4 * k + 64) * static_cast<int64_t>(sizeof(Candidate))));
  return std::max<int64_t>(queries, 1);
}

// The documents from `position` on, for the queries [begin, begin + count).
template <class Element>
void settle_rest(State& s, int64_t begin, int64_t count, int64_t position) {
  const int64_t panel = panel_queries<Element>(s, 0);
  for (int64_t first = begin; first < begin + count; first += panel)
    Screen<Element>(s, first, std::min(panel, begin + count - first))(position, false);
}

}  // namespace

void rank(const Problem& problem, Result& result, int threads) {
  const similarity::ParallelScope scope(threads);
  const int64_t targets = problem.target_begin[problem.queries.rows];
  std::fill_n(result.above, targets * problem.languages, int64_t{0});
  if (result.tied) std::fill_n(result.tied, 2 * targets * problem.languages, int64_t{0});
  State state(problem, result, threads);
  const Kernel& kernel = state.kernel_;
  bool bfloat16 = kernel.bfloat16_tile.rows > 0 && problem.screening != Screening::kFloat32;
  const int64_t panel = panel_queries<Bfloat16>(state, result.k);
  for (int64_t begin = 0; begin < problem.queries.rows; begin += panel) {
    const int64_t count = std::min(panel, problem.queries.rows - begin);
    state.start_best(begin, count);
    int64_t position = 0;
    if (bfloat16)
      position = Screen<Bfloat16>(state, begin, count)(0, problem.screening == Screening::kAuto);
    if (position < problem.documents.rows) {
      bfloat16 = false;
      similarity::release_kept();  // the copy in bfloat16
      if (kernel.split2_tile.rows > 0)
        settle_rest<Split<2>>(state, begin, count, position);
      else
        settle_rest<float>(state, begin, count, position);
    }
    state.finish_best(begin, count);
  }
  result.unsettled = state.unsettled_;
  similarity::release_kept();
}

void pair_scores(const Matrix& queries, const Matrix& documents, bool cosine, int64_t count,
                 const int64_t* query_rows, const int64_t* document_rows, double* scores,
                 int threads) {
  const Kernel& kernel = similarity::active_kernel();
  constexpr int64_t kPairs = 256;
  parallel_for((count + kPairs - 1) / kPairs, threads, [&](int64_t item) {
    const Buffer<float> query(queries.depth), document(queries.depth);
    for (int64_t t = item * kPairs; t < std::min(count, (item + 1) * kPairs); ++t) {
      const int64_t i = query_rows[t], j = document_rows[t];
      const float* q = float_row(queries, i, query.get());
      const float* d = float_row(documents, j, document.get());
      const double length = checked_length(kernel, d, queries.depth, false, j, cosine);
      scores[t] = kernel.exact_dot(q, d, queries.depth) * (cosine ? 1 / length : 1);
      if (!std::isfinite(scores[t])) checked_length(kernel, q, queries.depth, true, i, cosine);
    }
  });
}

}  // namespace hybridret::ranking
