// The engine and the loss without Python: every kernel this machine runs, against double. Built for
// other processors and run under an emulator by test_native.py. Exit status 1 names what failed.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "infonce/epilogue.h"
#include "infonce/infonce.h"
#include "ranking/ranking.h"
#include "similarity/kernel.h"
#include "similarity/memory.h"
#include "similarity/operands.h"

namespace {

using namespace hybridret;
using similarity::Bfloat16;
using similarity::Buffer;
using similarity::Format;
using similarity::Kernel;
using similarity::Split;

int failures = 0;

void expect(bool holds, const std::string& what) {
  if (holds) return;
  std::printf("FAILED %s\n", what.c_str());
  ++failures;
}

double relative(const std::vector<double>& actual, const std::vector<double>& expected) {
  double difference = 0, size = 1e-60;
  for (size_t i = 0; i < actual.size(); ++i) {
    difference += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return std::sqrt(difference / size);
}

std::vector<float> unit_vectors(int64_t rows, int64_t depth, int seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> vectors(rows * depth);
  for (int64_t i = 0; i < rows; ++i) {
    double square = 0;
    for (int64_t k = 0; k < depth; ++k) {
      vectors[i * depth + k] = normal(engine);
      square += vectors[i * depth + k] * vectors[i * depth + k];
    }
    for (int64_t k = 0; k < depth; ++k) vectors[i * depth + k] /= std::sqrt(square);
  }
  return vectors;
}

template <class Element>
void tile_agrees(const Kernel& kernel, Format format, double bound) {
  const auto& tiles = kernel.tiles<Element>();
  if (tiles.rows == 0) return;
  const int64_t depth = 96, columns = kernel.columns;
  std::vector<float> a = unit_vectors(tiles.rows, depth, 1), b = unit_vectors(columns, depth, 2);
  const int64_t bytes = similarity::bytes_of(format);
  const Buffer<char> a_stored(tiles.rows * depth * bytes), b_stored(columns * depth * bytes);
  const Buffer<Element> rows(tiles.rows * depth), packed(columns * depth);
  similarity::narrow(format, a.data(), tiles.rows * depth, a_stored.get());
  similarity::narrow(format, b.data(), columns * depth, b_stored.get());
  similarity::widen(format, a_stored.get(), tiles.rows * depth, a.data());
  similarity::widen(format, b_stored.get(), columns * depth, b.data());
  const similarity::RowOperand<Element> operand(kernel,
                                                {a_stored.get(), format, tiles.rows, depth, depth});
  const Element* a_rows = operand.rows(0, tiles.rows, rows.get());
  pack_block(kernel, {b_stored.get(), format, columns, depth, depth}, 0, columns, depth,
             packed.get());
  const Buffer<float> c(tiles.rows * columns);
  const similarity::TileScope scope(kernel);
  for (bool accumulate : {false, true})
    tiles.tile(depth, a_rows, operand.stride(), columns, packed.get(), c.get(), columns,
               accumulate);
  std::vector<double> actual(c.get(), c.get() + tiles.rows * columns), expected(actual.size());
  for (int64_t i = 0; i < tiles.rows; ++i)
    for (int64_t j = 0; j < columns; ++j)
      for (int64_t k = 0; k < depth; ++k)
        expected[i * columns + j] += 2.0 * a[i * depth + k] * b[j * depth + k];
  const double error = relative(actual, expected);
  expect(error < bound, std::string(kernel.isa) + " tile of " + std::to_string(sizeof(Element)) +
                            " bytes: " + std::to_string(error * 1e6) + "e-6");
}

void transpose_agrees(const Kernel& kernel) {
  const int64_t rows = 37, columns = 53;
  std::vector<float> from = unit_vectors(rows, columns, 3), to(rows * columns);
  kernel.transpose(from.data(), columns, rows, columns, to.data(), rows);
  bool equal = true;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t k = 0; k < columns; ++k) equal &= to[k * rows + i] == from[i * columns + k];
  expect(equal, std::string(kernel.isa) + " transpose");
}

void exponentials_agree(const Kernel& kernel) {
  const int64_t queries = kernel.columns, documents = 6;
  std::vector<float> tile(documents * queries), ones(64, 1.0f), zeros(64, 0.0f), sums(queries);
  for (size_t i = 0; i < tile.size(); ++i) tile[i] = -90.0f + 178.0f * i / tile.size();
  const Buffer<float> out(documents * queries);
  const infonce::Logits logits{tile.data(), documents,    ones.data(), nullptr,
                               ones.data(), zeros.data(), nullptr};
  kernel.loss.float_stores.exponentials(logits, zeros.data(), sums.data(), nullptr, out.get(),
                                        nullptr);
  double worst = 0;
  for (size_t i = 0; i < tile.size(); ++i) {
    const double e = tile[i] < -87.3f ? 0 : std::exp(static_cast<double>(tile[i]));
    worst = std::max(worst, e == 0 ? std::abs(out[i]) : std::abs(out[i] / e - 1));
  }
  expect(worst < 3e-7, std::string(kernel.isa) + " exponentials");
}

// Loss and gradients of the active kernel against double, and the same bits from one thread and
// four.
void loss_agrees(Format format, bool symmetric, double loss_bound, double gradient_bound) {
  const int64_t n = 150, m = 190, depth = 40, bytes = similarity::bytes_of(format);
  std::vector<float> q = unit_vectors(n, depth, 4), d = unit_vectors(m, depth, 5);
  std::vector<char> q_stored(q.size() * bytes), d_stored(d.size() * bytes);
  similarity::narrow(format, q.data(), q.size(), q_stored.data());
  similarity::narrow(format, d.data(), d.size(), d_stored.data());
  similarity::widen(format, q_stored.data(), q.size(), q.data());
  similarity::widen(format, d_stored.data(), d.size(), d.data());
  std::vector<int64_t> labels(n);
  for (int64_t i = 0; i < n; ++i) labels[i] = (i * 7) % m;

  infonce::Problem problem{};
  problem.queries = {q_stored.data(), format, n, depth, depth};
  problem.documents = {d_stored.data(), format, m, depth, depth};
  problem.labels = labels.data();
  problem.scale = 20;
  const Format gradient_format = infonce::gradient_format(format);
  const int64_t gradient_bytes = similarity::bytes_of(gradient_format);
  const std::vector<float> weights(n, 1.0f / n);
  std::vector<char> first;
  std::vector<float> lse(n), positive(n), document_lse(m), by_q(q.size()), by_d(d.size());
  for (int threads : {1, 4}) {
    std::vector<char> by(static_cast<size_t>((n + m) * depth * gradient_bytes));
    double by_scale = 0;
    infonce::statistics_and_gradients(
        problem, {lse.data(), positive.data(), symmetric ? document_lse.data() : nullptr, nullptr},
        weights.data(), {by.data(), by.data() + n * depth * gradient_bytes, &by_scale}, threads);
    if (first.empty()) first = by;
    expect(by == first, "the same bits for any number of threads");
  }
  similarity::widen(gradient_format, first.data(), q.size(), by_q.data());
  similarity::widen(gradient_format, first.data() + n * depth * gradient_bytes, d.size(),
                    by_d.data());

  std::vector<double> s(n * m), g(n * m), loss(1), expected(1), eq(q.size()), ed(d.size());
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < m; ++j)
      for (int64_t k = 0; k < depth; ++k)
        s[i * m + j] += 20.0 * q[i * depth + k] * d[j * depth + k];
  const auto softmax = [&](int64_t count, double weight, auto at, int64_t label) {
    double sum = 0;
    for (int64_t j = 0; j < count; ++j) sum += std::exp(s[at(j)]);
    for (int64_t j = 0; j < count; ++j)
      g[at(j)] += weight * (std::exp(s[at(j)]) / sum - (j == label)) * 20 / n;
    expected[0] += weight * (std::log(sum) - s[at(label)]) / n;
  };
  for (int64_t i = 0; i < n; ++i) {
    softmax(m, symmetric ? 0.5 : 1, [&](int64_t j) { return i * m + j; }, labels[i]);
    if (symmetric) softmax(n, 0.5, [&](int64_t other) { return other * m + labels[i]; }, i);
    double of_query = std::log1p(std::exp(static_cast<double>(lse[i]) - positive[i]));
    if (symmetric)
      of_query =
          (of_query +
           std::log1p(std::exp(static_cast<double>(document_lse[labels[i]]) - positive[i]))) /
          2;
    loss[0] += of_query / n;
  }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < m; ++j)
      for (int64_t k = 0; k < depth; ++k) {
        eq[i * depth + k] += g[i * m + j] * d[j * depth + k];
        ed[j * depth + k] += g[i * m + j] * q[i * depth + k];
      }
  const std::string name =
      std::string("loss, ") + std::to_string(bytes) + " bytes" + (symmetric ? ", symmetric" : "");
  expect(relative(loss, expected) < loss_bound, name);
  expect(relative({by_q.begin(), by_q.end()}, eq) < gradient_bound, name + ", queries");
  expect(relative({by_d.begin(), by_d.end()}, ed) < gradient_bound, name + ", documents");
}

// Ranks by every way of screening against a count in double.
void ranks_agree() {
  const int64_t n = 60, m = 150, depth = 24;
  const std::vector<float> q = unit_vectors(n, depth, 6), d = unit_vectors(m, depth, 7);
  const similarity::Matrix queries{q.data(), Format::kFloat32, n, depth, depth};
  const similarity::Matrix documents{d.data(), Format::kFloat32, m, depth, depth};
  std::vector<int32_t> language(m);
  std::vector<int64_t> order(m), begin(n + 1), rows(n), targets(n), above(n * 2), best(n * 3);
  for (int64_t j = 0; j < m; ++j) order[j] = j, language[j] = j % 2;
  for (int64_t i = 0; i < n; ++i) begin[i + 1] = i + 1, rows[i] = i, targets[i] = (i * 11) % m;
  std::vector<double> scores(n), best_scores(n * 3);
  ranking::pair_scores(queries, documents, false, n, rows.data(), targets.data(), scores.data(), 2);
  for (auto screening :
       {ranking::Screening::kAuto, ranking::Screening::kBfloat16, ranking::Screening::kFloat32}) {
    ranking::Result result{above.data(), nullptr, 3, best.data(), best_scores.data(), 0};
    ranking::rank({queries, documents, false, 2, language.data(), order.data(), begin.data(),
                   scores.data(), targets.data(), screening},
                  result, 3);
    int wrong = 0;
    for (int64_t i = 0; i < n; ++i) {
      const auto score = [&](int64_t j) {
        double sum = 0;
        for (int64_t k = 0; k < depth; ++k) sum += double{q[i * depth + k]} * d[j * depth + k];
        return sum;
      };
      int64_t counts[2] = {}, first = 0;
      for (int64_t j = 0; j < m; ++j) {
        counts[j % 2] += j != targets[i] && score(j) > score(targets[i]);
        if (score(j) > score(first)) first = j;
      }
      wrong += counts[0] != above[2 * i] || counts[1] != above[2 * i + 1] || best[3 * i] != first;
    }
    expect(wrong == 0, "ranks");
  }
}

void code_products_agree(const Kernel& kernel) {
  std::mt19937 engine(3);
  for (int64_t depth : {1, 7, 63, 64, 129, 384, 1027}) {
    const int limit = static_cast<int>(std::min<int64_t>(8191, 2147483647 / (127 * depth)));
    for (bool extreme : {false, true}) {
      std::vector<int16_t> a(depth);
      std::vector<int8_t> b(depth);
      int64_t expected = 0;
      for (int64_t k = 0; k < depth; ++k) {
        a[k] = static_cast<int16_t>(
            extreme ? limit : std::uniform_int_distribution<int>(-limit, limit)(engine));
        b[k] = static_cast<int8_t>(extreme ? -127
                                           : std::uniform_int_distribution<int>(-127, 127)(engine));
        expected += static_cast<int64_t>(a[k]) * b[k];
      }
      expect(kernel.code_dot(a.data(), b.data(), depth) == expected,
             std::string(kernel.isa) + " code_dot of depth " + std::to_string(depth));
    }
  }
}

}  // namespace

int main() {
  for (int i = 0; i < similarity::usable_kernel_count(); ++i) {
    const Kernel& kernel = similarity::usable_kernel(i);
    tile_agrees<float>(kernel, Format::kFloat32, 3e-7);
    tile_agrees<Bfloat16>(kernel, Format::kBfloat16, 3e-7);
    tile_agrees<Split<3>>(kernel, Format::kFloat32, 3e-7);
    tile_agrees<Split<2>>(kernel, Format::kFloat32, 1e-5);
    transpose_agrees(kernel);
    code_products_agree(kernel);
    exponentials_agree(kernel);
  }
  for (bool symmetric : {false, true}) {
    loss_agrees(Format::kFloat32, symmetric, 1e-6, 5e-6);
    loss_agrees(Format::kFloat16, symmetric, 1e-6, 5e-6);
    loss_agrees(Format::kBfloat16, symmetric, 1e-5, 2.5e-3);
  }
  ranks_agree();
  std::printf("%s, active %s: %d failed\n", sizeof(void*) == 8 ? "64 bit" : "32 bit",
              similarity::active_kernel().isa, failures);
  return failures ? 1 : 0;
}
