// The kernel source, compiled once per ISA by kernel_<isa>.cpp: the files named *_source.h. What an
// ISA's file brings before it includes this one:
//   HYBRIDRET_LANES      floats in a vector register
//   HYBRIDRET_TILE_ROWS  rows of the float32 tile
//   HYBRIDRET_KERNEL     name of the table to define
//   HYBRIDRET_ISA_NAME   the ISA as users write it
//   sign_bits            bit l of the result: whether lane l of an IntVector is negative
// where the ISA multiplies bfloat16:
//   HYBRIDRET_BFLOAT16_TILE, HYBRIDRET_SPLIT_TILE(Element)
//                        the first members of their TileKernel; the latter if products of float32
//                        are to be made of bfloat16
//   to_bfloat16          the bits of a Vector rounded to bfloat16, ties to even
// and where they differ from what is below, HYBRIDRET_CACHE_BYTES and HYBRIDRET_SCOPE (Kernel's
// enter and leave). A new ISA is such a file, its flags in CMakeLists.txt, its table's name in
// kernel.h and its condition in dispatch.cpp; a new user of tiles is an epilogue.h and an
// epilogue_source.h in a folder of its own, and a member of Kernel.
//
// Everything here has internal linkage and nothing of the standard library or of our own inline
// functions is used: a linker may merge two copies of an inline function, and the copy it keeps may
// hold instructions that the machine does not have.
#pragma once

#include "similarity/code_source.h"
#include "similarity/conversion_source.h"
#include "similarity/kernel.h"
#include "similarity/tile_source.h"

// The users of tiles: what they do with one.
#include "infonce/epilogue_source.h"
#include "ranking/epilogue_source.h"

#ifndef HYBRIDRET_CACHE_BYTES
#define HYBRIDRET_CACHE_BYTES 3 << 18  // three quarters of the megabyte of Zen 4 and 5
#endif
#ifndef HYBRIDRET_SCOPE
#define HYBRIDRET_SCOPE nullptr, nullptr
#endif

namespace hybridret::similarity {
namespace {

#ifdef HYBRIDRET_BFLOAT16_TILE
constexpr TileKernel<Bfloat16> kBfloat16Tile = {HYBRIDRET_BFLOAT16_TILE, convert<Bfloat16>};
#else
constexpr TileKernel<Bfloat16> kBfloat16Tile = {};
#endif
#ifdef HYBRIDRET_SPLIT_TILE
constexpr TileKernel<Split<3>> kSplit3Tile = {HYBRIDRET_SPLIT_TILE(Split<3>), split<3>};
constexpr TileKernel<Split<2>> kSplit2Tile = {HYBRIDRET_SPLIT_TILE(Split<2>), split<2>};
#else
constexpr TileKernel<Split<3>> kSplit3Tile = {};
constexpr TileKernel<Split<2>> kSplit2Tile = {};
#endif

}  // namespace

const Kernel HYBRIDRET_KERNEL = {HYBRIDRET_ISA_NAME,
                                 kColumns,
                                 HYBRIDRET_CACHE_BYTES,
                                 {kTileRows, 1, float_tile, convert<float>},
                                 kBfloat16Tile,
                                 kSplit3Tile,
                                 kSplit2Tile,
                                 transpose,
                                 dot,
                                 exact_dot,
                                 code_dot,
                                 widen_all,
                                 narrow_all,
                                 HYBRIDRET_SCOPE,
                                 infonce::kEpilogue,
                                 ranking::kEpilogue};

}  // namespace hybridret::similarity
