// The integer leaky integrate-and-fire neuron (I-LIF) over T steps: forward, backward.
//
//   U[t] = decay * V[t-1] + input_scale * X[t],   C[t] = rint(clip(U[t], 0, D)),   V[t] = U[t] - C[t]
//   S[t] = spike_value * C[t]: spike counts for a value of 1, normalised spikes for 1 / D
//
// and of the binary neuron of EMS-YOLO: C[t] = 1 where U[t] > 0.5, V[t] = U[t] * (1 - C[t])
//
// Compiled once per element type and number of steps, with
//   -DSCALAR=float|double|Half|BFloat16   type of x, spikes and their gradients
//   -DTIME_STEPS=4                        T, so that the loads of all steps fly together
//   -DVECTORISED=1                        16-byte accesses: aligned pointers, whole vectors only
//   -DHARD_RESET=1                        the binary neuron, whose max_spikes is 1
//   --fmad=false                          fuse a product with a sum only where it says fma
//
// A tensor is T dense rows of `neurons` elements, whatever the axes behind them. Membranes live in
// registers, in float (double for double). A thread owns 8 neurons, so that its surrogate window,
// one bit each, is one byte per step: window[t][thread of the grid]. A hard reset keeps as many bytes
// of who fired behind those of all steps. See docs/kernels.md.

// --- single instructions, and 16-bit formats by hand: NVRTC may come without the CUDA headers --------

#ifndef ILIF_SHIM
// nvcc takes some 16-byte stores apart. No kernel reads what it writes, so no order is asked for.
__device__ void store_16_bytes(uint4* to, uint4 word) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(word.x), "r"(word.y),
                 "r"(word.z), "r"(word.w));
}

__device__ float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ unsigned short float_to_half(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

// To nearest, ties to even; NaN stays NaN. One instruction since compute capability 8.0.
__device__ unsigned short float_to_bfloat16(float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
#else
    const unsigned word = __float_as_uint(value);
    return value != value ? 0x7fff : (word + 0x7fff + (word >> 16 & 1)) >> 16;
#endif
}

struct Half {
    unsigned short bits;
    Half() = default;
    __device__ explicit Half(float value) : bits(float_to_half(value)) {}
    __device__ explicit operator float() const { return half_to_float(bits); }
};

struct BFloat16 {
    unsigned short bits;
    BFloat16() = default;
    __device__ explicit BFloat16(float value) : bits(float_to_bfloat16(value)) {}
    __device__ explicit operator float() const {
        return __uint_as_float(static_cast<unsigned>(bits) << 16);
    }
};

// --- which neurons a thread owns, and how it reads and writes them ---------------------------------

template <typename T> struct MembraneOf { using type = float; };
template <> struct MembraneOf<double> { using type = double; };

using Scalar = SCALAR;
using Membrane = MembraneOf<Scalar>::type;
using Index = long long;

constexpr int OWNED = 8;                     // neurons of a thread
constexpr int LANES = 16 / sizeof(Scalar);   // neighbours in one vector
constexpr int VECTORS = OWNED / LANES;       // 1 in 16-bit formats, 2 in float, 4 in double

// LANES neighbours of one row, moved 16 bytes at a time.
template <typename Element> union Vector {
    static constexpr int WORDS = sizeof(Element) * LANES / sizeof(uint4);
    Element lane[LANES];
    uint4 words[WORDS];
};

// First neuron of the thread's vector k: threads lie side by side, the vectors of one thread a whole
// block apart. Beyond the row it is the row's last vector, so that several threads compute and write
// the very same values there and no access needs a branch.
__device__ Index first_neuron(int k, Index neurons) {
    const Index block = static_cast<Index>(blockIdx.x) * blockDim.x * OWNED;
    const Index first = block + (k * blockDim.x + threadIdx.x) * LANES;
    return first < neurons ? first : (neurons - 1) / LANES * LANES;
}

// Neuron i of the vector that begins at `first`, for rows that allow no 16-byte accesses: beyond the
// row, likewise, its last neuron.
__device__ Index single_neuron(Index first, int i, Index neurons) {
    return first + i < neurons ? first + i : neurons - 1;
}

// Place of the thread's byte in the window of step t, and of who fired in step t.
__device__ Index window_byte(int t) {
    const Index threads = static_cast<Index>(gridDim.x) * blockDim.x;
    return t * threads + static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ Index fired_byte(int t) { return window_byte(TIME_STEPS + t); }

// The thread's neurons of one row.
template <typename Element>
__device__ void load(Membrane (&owned)[OWNED], const Element* __restrict__ row, Index neurons) {
#pragma unroll
    for (int k = 0; k < VECTORS; ++k) {
        const Index first = first_neuron(k, neurons);
        Vector<Element> vector;
#pragma unroll
        for (int w = 0; VECTORISED && w < vector.WORDS; ++w)
            vector.words[w] = reinterpret_cast<const uint4*>(row + first)[w];
#pragma unroll
        for (int i = 0; i < LANES; ++i) {
            if (!VECTORISED) vector.lane[i] = row[single_neuron(first, i, neurons)];
            owned[k * LANES + i] = static_cast<Membrane>(vector.lane[i]);
        }
    }
}

template <typename Element>
__device__ void store(Element* __restrict__ row, const Membrane (&owned)[OWNED], Index neurons) {
#pragma unroll
    for (int k = 0; k < VECTORS; ++k) {
        const Index first = first_neuron(k, neurons);
        Vector<Element> vector;
#pragma unroll
        for (int i = 0; i < LANES; ++i) {
            vector.lane[i] = static_cast<Element>(owned[k * LANES + i]);
            if (!VECTORISED) row[single_neuron(first, i, neurons)] = vector.lane[i];
        }
#pragma unroll
        for (int w = 0; VECTORISED && w < vector.WORDS; ++w)
            store_16_bytes(reinterpret_cast<uint4*>(row + first) + w, vector.words[w]);
    }
}

// --- the neuron ------------------------------------------------------------------------------------

__device__ Membrane charge(Membrane v, Membrane x, Membrane decay, Membrane input_scale) {
    return fma(v, decay, x * input_scale);
}

// Comparisons, not fmin and fmax, so that a NaN stays in sight.
__device__ Membrane clip(Membrane u, Membrane max_spikes) {
    return u < 0 ? 0 : u > max_spikes ? max_spikes : u;
}

__device__ Membrane fire(Membrane u, Membrane max_spikes) {
    if (HARD_RESET) return u > Membrane(0.5);
    return rint(clip(u, max_spikes));
}

__device__ Membrane reset(Membrane u, Membrane count) {
    if (HARD_RESET) return count > 0 ? 0 : u;
    return u - count;
}

// Where the surrogate gradient is 1: 0 <= u <= D, open at both ends with a hard reset.
__device__ bool in_window(Membrane u, Membrane max_spikes) {
    if (HARD_RESET) return u > 0 && u < max_spikes;
    return u == clip(u, max_spikes);
}

// May be null: initial_v (rest), window and final_v (not wanted).
extern "C" __global__ void ilif_forward(
    const Scalar* __restrict__ x, const Membrane* __restrict__ initial_v,
    Scalar* __restrict__ spikes, unsigned char* __restrict__ window,
    Membrane* __restrict__ final_v, Index neurons,
    Membrane max_spikes, Membrane decay, Membrane input_scale, Membrane spike_value) {
    Membrane v[OWNED] = {};
    if (initial_v) load(v, initial_v, neurons);
#pragma unroll 16
    for (int t = 0; t < TIME_STEPS; ++t) {
        Membrane input[OWNED], count[OWNED];
        load(input, x + t * neurons, neurons);
        unsigned inside = 0, fired = 0;
#pragma unroll
        for (int i = 0; i < OWNED; ++i) {
            const Membrane u = charge(v[i], input[i], decay, input_scale);
            count[i] = fire(u, max_spikes);
            inside |= static_cast<unsigned>(in_window(u, max_spikes)) << i;
            fired |= static_cast<unsigned>(count[i] > 0) << i;
            v[i] = reset(u, count[i]);
            count[i] *= spike_value;
        }
        store(spikes + t * neurons, count, neurons);
        if (window) window[window_byte(t)] = static_cast<unsigned char>(inside);
        if (window && HARD_RESET) window[fired_byte(t)] = static_cast<unsigned char>(fired);
    }
    if (final_v) store(final_v, v, neurons);
}

// May be null: grad_final_v (zero) and grad_initial_v (not wanted).
extern "C" __global__ void ilif_backward(
    const Scalar* __restrict__ grad_spikes, const unsigned char* __restrict__ window,
    const Membrane* __restrict__ grad_final_v, Scalar* __restrict__ grad_x,
    Membrane* __restrict__ grad_initial_v, Index neurons,
    Membrane decay, Membrane input_scale, Membrane spike_value, Index detach_reset) {
    Membrane grad_v[OWNED] = {};
    if (grad_final_v) load(grad_v, grad_final_v, neurons);
#pragma unroll 16
    for (int t = TIME_STEPS - 1; t >= 0; --t) {
        Membrane grad[OWNED];
        load(grad, grad_spikes + t * neurons, neurons);
        const unsigned bits = window[window_byte(t)];
        const unsigned fired = HARD_RESET ? window[fired_byte(t)] : 0;
#pragma unroll
        for (int i = 0; i < OWNED; ++i) {
            const bool inside = bits >> i & 1;
            const bool through = HARD_RESET ? !(fired >> i & 1) : detach_reset || !inside;
            const Membrane kept = through ? grad_v[i] : 0;
            const Membrane grad_u = inside ? kept + grad[i] * spike_value : kept;
            grad[i] = grad_u * input_scale;
            grad_v[i] = grad_u * decay;
        }
        store(grad_x + t * neurons, grad, neurons);
    }
    if (grad_initial_v) store(grad_initial_v, grad_v, neurons);
}
