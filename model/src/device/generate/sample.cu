// Draws one token a row, as `sampling.rs` does on the host: the same filters in the same order, the same random number, and the
// log-prob under what was sampled from. VOCAB is a macro. One block of 1024 threads a row.
//
// Probabilities are whole numbers, exp((z - max) / temperature) * 2^44 rounded down: their sums are exact in any order, so what
// is drawn depends on the row alone.

#define WARPS 32
#define UNIT 17592186044416.0f  // 2^44; 2^18 tokens fit into 64 bits

// What is left after the filters: a start of the order (value descending, token ascending), and a smallest probability.
struct Kept {
    unsigned key;
    unsigned token;
    float floor;
};

// Larger values have larger keys.
__device__ __forceinline__ unsigned key_of(float z) {
    const unsigned bits = __float_as_uint(z + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ u64 mass_of(float e) { return (u64)(e * UNIT); }

__device__ __forceinline__ u64 warp_total(u64 x) {
    for (int d = 16; d > 0; d >>= 1) x += __shfl_xor_sync(FULL, x, d);
    return x;
}

struct Sampler {
    const float* z;
    float top;
    float inv_t;
    Kept kept;
    bool cut;

    __device__ __forceinline__ float probability(float value) const { return expf((value - top) * inv_t); }
    __device__ __forceinline__ bool has(unsigned key, unsigned token, float e) const {
        return !cut || ((key > kept.key || (key == kept.key && token <= kept.token)) && e >= kept.floor);
    }
    __device__ __forceinline__ u64 mass(unsigned token) const {
        const float value = z[token], e = probability(value);
        return has(key_of(value), token, e) ? mass_of(e) : 0;
    }
};

// The sums of all threads' counters, for all threads.
template <int N>
__device__ __forceinline__ void block_sums(u64 (&x)[N], u64 (*shared)[N]) {
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    __syncthreads();
#pragma unroll
    for (int n = 0; n < N; ++n) {
        const u64 sum = warp_total(x[n]);
        if (lane == 0) shared[warp][n] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < N; ++n) x[n] = warp_total(shared[lane][n]);
}

// The first token, in order of tokens, at which the sum of `weight` exceeds `target`; the last with weight where none does.
template <class F>
__device__ __forceinline__ unsigned walk(F weight, u64 target) {
    __shared__ u64 sums[WARPS];
    __shared__ unsigned found;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int share = (VOCAB + WARPS - 1) / WARPS, begin = warp * share, end = min(VOCAB, begin + share);
    u64 sum = 0;
    __syncthreads();
    for (int i = begin + lane; i < end; i += WARP) sum += weight(i);
    sum = warp_total(sum);
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    const u64 before = warp_total(lane < warp ? sums[lane] : 0), total = warp_total(sums[lane]);
    if (total == 0) return 0;
    if (target >= total) target = total - 1;
    if (before <= target && target < before + sum) {
        u64 rest = target - before;
        for (int i = begin; i < end; i += WARP) {
            u64 x = i + lane < end ? weight(i + lane) : 0;
            for (int d = 1; d < WARP; d <<= 1) {
                const u64 y = __shfl_up_sync(FULL, x, d);
                if (lane >= d) x += y;
            }
            const unsigned past = __ballot_sync(FULL, x > rest);
            if (past) {
                if (lane == 0) found = i + __ffs(past) - 1;
                break;
            }
            rest -= __shfl_sync(FULL, x, WARP - 1);
        }
    }
    __syncthreads();
    return found;
}

// The shortest start of the order (value descending, token ascending) of what is kept whose weight exceeds `target`: its last
// key and token. `counts`: every token weighs 1, else its mass. Two bits of the key a pass.
__device__ __noinline__ Kept shortest(const Sampler s, bool counts, u64 target) {
    __shared__ u64 shared[WARPS][3];
    unsigned prefix = 0;
    for (int shift = 30; shift >= 0; shift -= 2) {
        // Weight of the digits 3, 2 and 1 under the prefix.
        u64 weights[3] = {0, 0, 0};
        for (int i = threadIdx.x; i < VOCAB; i += 1024) {
            const float value = s.z[i];
            const unsigned key = key_of(value);
            if (shift < 30 && key >> (shift + 2) != prefix) continue;
            const float e = s.probability(value);
            if (!s.has(key, i, e)) continue;
            const u64 weight = counts ? 1 : mass_of(e);
            const unsigned digit = key >> shift & 3;
            weights[0] += digit == 3 ? weight : 0;
            weights[1] += digit == 2 ? weight : 0;
            weights[2] += digit == 1 ? weight : 0;
        }
        block_sums(weights, shared);
        unsigned digit = 3;
        for (; digit > 0; --digit) {
            const u64 weight = weights[3 - digit];
            if (target < weight) break;
            target -= weight;
        }
        prefix = prefix << 2 | digit;
    }
    // Equal values weigh the same.
    u64 each = 1;
    const unsigned bits = prefix & 0x80000000u ? prefix & 0x7fffffffu : ~prefix;
    if (!counts) each = mass_of(s.probability(__uint_as_float(bits)));
    if (each == 0) each = 1;
    const u64 nth = target / each;
    const unsigned token = walk(
        [&](unsigned i) -> u64 {
            const float value = s.z[i];
            return key_of(value) == prefix && s.has(prefix, i, s.probability(value)) ? 1 : 0;
        },
        nth);
    return Kept{prefix, token, 0.0f};
}

extern "C" __global__ void __launch_bounds__(1024)
    sample_rows(const Row* rows, const float* logits, int* tokens, float* log_probs) {
    __shared__ float values[WARPS];
    __shared__ unsigned places[WARPS];
    __shared__ u64 shared[WARPS][1];
    const Row row = rows[blockIdx.x];
    if (row.position < 0) return;
    Sampler s;
    s.z = logits + (size_t)blockIdx.x * VOCAB;
    float top = NOTHING;
    unsigned place = 0;
#pragma unroll 8
    for (int i = threadIdx.x; i < VOCAB; i += 1024) {
        const float value = s.z[i];
        if (value > top) {
            top = value;
            place = i;
        }
    }
    for (int d = 16; d > 0; d >>= 1) {
        const float other = __shfl_xor_sync(FULL, top, d);
        const unsigned where = __shfl_xor_sync(FULL, place, d);
        if (other > top || (other == top && where < place)) {
            top = other;
            place = where;
        }
    }
    if (threadIdx.x % WARP == 0) {
        values[threadIdx.x / WARP] = top;
        places[threadIdx.x / WARP] = place;
    }
    __syncthreads();
    top = values[0];
    place = places[0];
#pragma unroll 1
    for (int w = 1; w < WARPS; ++w)
        if (values[w] > top || (values[w] == top && places[w] < place)) {
            top = values[w];
            place = places[w];
        }
    const bool greedy = row.temperature <= 0.0f;
    s.top = top;
    s.inv_t = greedy ? 1.0f : 1.0f / row.temperature;
    s.cut = false;
    s.kept = Kept{0, 0xffffffffu, 0.0f};
    const auto mass = [&](unsigned i) -> u64 { return s.mass(i); };
    const auto total = [&]() -> u64 {
        u64 sum[1] = {0};
#pragma unroll 4
        for (int i = threadIdx.x; i < VOCAB; i += 1024) sum[0] += mass(i);
        block_sums(sum, shared);
        return sum[0];
    };
    u64 sum = 0;
    unsigned token = place;
    if (greedy) {
        sum = total();
    } else {
        const bool by_count = row.top_k > 0 && row.top_k < VOCAB, by_mass = row.top_p < 1.0f, by_floor = row.min_p > 0.0f;
        if (by_count) {
            s.kept = shortest(s, true, row.top_k - 1);
            s.cut = true;
        }
        if (by_mass) {
            const double share = (double)fmaxf(row.top_p, 0.0f) * (double)total();
            const u64 wanted = (u64)ceil(share);
            s.kept = shortest(s, false, wanted > 0 ? wanted - 1 : 0);
            s.cut = true;
        }
        if (by_floor) {
            s.kept.floor = fminf(row.min_p, 1.0f);
            s.cut = true;
        }
        sum = total();
        const u64 target = __umul64hi(row.uniform << 11, sum);
        if (s.cut) {
            token = shortest(s, false, target).token;
        } else {
            token = walk(mass, target);
        }
    }
    if (threadIdx.x == 0) {
        tokens[blockIdx.x] = token;
        log_probs[blockIdx.x] = (float)((double)((s.z[token] - top) * s.inv_t) - log((double)sum / (double)UNIT));
    }
}
