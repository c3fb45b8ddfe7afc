// Just enough CUDA to run a kernel without barriers as ordinary C++: a launch is two nested loops.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstring>
#include <tuple>
#include <utility>

#define ILIF_SHIM
#define __global__
#define __device__

using std::fma;
using std::rint;

struct Extent {
    unsigned x;
};
static Extent gridDim, blockDim, blockIdx, threadIdx;

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

static void store_16_bytes(uint4* to, uint4 word) { *to = word; }

template <typename To, typename From> To same_bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "same_bits keeps every bit");
    To result;
    std::memcpy(&result, &value, sizeof(To));
    return result;
}

static unsigned __float_as_uint(float value) { return same_bits<unsigned>(value); }
static float __uint_as_float(unsigned bits) { return same_bits<float>(bits); }

// The compiler's own IEEE half stands for the two conversion instructions.
static float half_to_float(unsigned short bits) { return same_bits<_Float16>(bits); }
static unsigned short float_to_half(float value) {
    return same_bits<unsigned short>(static_cast<_Float16>(value));
}

// What CUDA gets as compile-time constants is set at every launch here: one build for all.
static int time_steps;
static bool vectorised, hard_reset;
#define TIME_STEPS time_steps
#define VECTORISED vectorised
#define HARD_RESET hard_reset

// A launch of `blocks` blocks, of which those before `first` are left out.
struct Launch {
    int first, blocks, threads;
};

// `arguments` as cuLaunchKernel takes them: one pointer to the bytes of each argument.
template <typename... Types, std::size_t... Place>
void run(void (*kernel)(Types...), Launch launch, void** arguments, std::index_sequence<Place...>) {
    gridDim.x = launch.blocks;
    blockDim.x = launch.threads;
    for (blockIdx.x = launch.first; blockIdx.x < gridDim.x; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x)
            kernel(*static_cast<Types*>(arguments[Place])...);
}

template <typename... Types>
void run(void (*kernel)(Types...), Launch launch, void** arguments) {
    run(kernel, launch, arguments, std::index_sequence_for<Types...>{});
}

// After the kernels: `EXPORT(name)` makes run_name callable from outside.
#define EXPORT(name)                                                                       \
    extern "C" void run_##name(int steps, bool vectors, bool hard, Launch launch, void** arguments) { \
        time_steps = steps;                                                                \
        vectorised = vectors;                                                              \
        hard_reset = hard;                                                                 \
        run(name, launch, arguments);                                                      \
    }
