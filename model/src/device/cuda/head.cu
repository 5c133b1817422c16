// The vocabulary's kernels: log-probs of targets, and the gradient of the logits.

constexpr int VV = VOCAB % 4 == 0 ? 4 : 1;

// A running softmax: the largest logit, the sum of e = exp((z - max) t), the sum of e (z - max) t.
struct Running {
    float max, sum, weighted;
};

__device__ __forceinline__ Running merge(Running a, Running b, float inv_t) {
    // An empty one has sum 0 and max -inf, whose differences are no numbers.
    if (b.sum == 0.0f) return a;
    if (a.sum == 0.0f) return b;
    float max = fmaxf(a.max, b.max), da = (a.max - max) * inv_t, db = (b.max - max) * inv_t;
    float ea = exp_of(da), eb = exp_of(db);
    return {max, a.sum * ea + b.sum * eb, ea * (a.weighted + a.sum * da) + eb * (b.weighted + b.sum * db)};
}

// A block a row of logits. numbers: [n, 3] log-prob, entropy, 1 where the target is the largest; parts: [n, 2] max, 1 / sum.
extern "C" __global__ void score(const float *logits, const int *targets, float inv_t, double *numbers, float *parts) {
    __shared__ Running shared[32];
    const float *row = logits + (u64)blockIdx.x * VOCAB;
    Running r = {-__int_as_float(0x7f800000), 0.0f, 0.0f};
    for (int i = threadIdx.x * VV; i < VOCAB; i += blockDim.x * VV) {
        Pack<VV> z = load<VV>(row + i);
        float top = z.v[0];
        for (int j = 1; j < VV; j++) top = fmaxf(top, z.v[j]);
        if (top > r.max) {
            if (r.sum != 0.0f) {
                float d = (r.max - top) * inv_t, e = exp_of(d);
                r.weighted = e * (r.weighted + r.sum * d);
                r.sum *= e;
            }
            r.max = top;
        }
        for (int j = 0; j < VV; j++) {
            float s = (z.v[j] - r.max) * inv_t, e = exp_of(s);
            r.sum += e;
            // e = 0 where s is -inf.
            r.weighted += e == 0.0f ? 0.0f : e * s;
        }
    }
    for (int step = 16; step > 0; step >>= 1) {
        Running o = {__shfl_xor_sync(0xffffffffu, r.max, step), __shfl_xor_sync(0xffffffffu, r.sum, step),
                     __shfl_xor_sync(0xffffffffu, r.weighted, step)};
        r = merge(r, o, inv_t);
    }
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    if (lane == 0) shared[warp] = r;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < (int)(blockDim.x >> 5); w++) r = merge(r, shared[w], inv_t);
        double sum = r.sum, log_sum = log(sum);
        float z = row[targets[blockIdx.x]];
        double *out = numbers + (u64)blockIdx.x * 3;
        out[0] = (double)((z - r.max) * inv_t) - log_sum;
        out[1] = log_sum - (double)r.weighted / sum;
        out[2] = z == r.max ? 1.0 : 0.0;
        parts[(u64)blockIdx.x * 2] = r.max;
        parts[(u64)blockIdx.x * 2 + 1] = (float)(1.0 / sum);
    }
}

// d loss / d logits = slope (onehot(target) - p), slopes divided by the temperature already.
extern "C" __global__ void score_backward(const float *logits, const int *targets, const float *slopes, const float *parts,
                                          float inv_t, T *out) {
    const float *row = logits + (u64)blockIdx.x * VOCAB;
    T *to = out + (u64)blockIdx.x * VOCAB;
    float slope = slopes[blockIdx.x], max = parts[(u64)blockIdx.x * 2];
    float scale = -slope * parts[(u64)blockIdx.x * 2 + 1];
    int target = targets[blockIdx.x];
    for (int i = threadIdx.x * VV; i < VOCAB; i += blockDim.x * VV) {
        Pack<VV> z = load<VV>(row + i);
        for (int j = 0; j < VV; j++) {
            z.v[j] = scale == 0.0f ? 0.0f : scale * exp_of((z.v[j] - max) * inv_t);
            if (i + j == target) z.v[j] += slope;
        }
        store(to + i, z);
    }
}
