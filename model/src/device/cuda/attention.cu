// Causal grouped-query attention over packed rows, a warp a row and head: for any head size and both types. A sequence may
// continue another's rows (its prefix); a row sees the whole prefix and its own sequence up to itself.
//
// qk: rotated queries and keys [rows, QK_DIM]; values are the last KV_DIM columns of qkv [rows, QKV_DIM].

struct Segment {
    int start, len, prefix_start, prefix_len;
    // Rows of the sequences that continue this one: neighbours of each other.
    int children_start, children_end;
};

constexpr int EACH = (HEAD_DIM + 31) / 32;

__device__ __forceinline__ void take_head(const T *from, int lane, float *to) {
    for (int e = 0; e < EACH; e++) to[e] = lane + 32 * e < HEAD_DIM ? get(from[lane + 32 * e]) : 0.0f;
}

__device__ __forceinline__ float dot(const float *a, const float *b) {
    float sum = 0.0f;
    for (int e = 0; e < EACH; e++) sum += a[e] * b[e];
    return warp_sum(sum);
}

// out: [rows, Q_DIM]; lse: [HEADS, rows], log of the sum of the exponentials of the scaled scores.
extern "C" __global__ void attend(const T *qk, const T *qkv, const Segment *segments, const int *segment_of, float scale, T *out,
                                  float *lse, int rows) {
    int task = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (task >= rows * HEADS) return;
    int row = task / HEADS, head = task % HEADS, kv = head / GROUP;
    Segment s = segments[segment_of[row]];
    float q[EACH], acc[EACH], max = -__int_as_float(0x7f800000), sum = 0.0f;
    take_head(qk + (u64)row * QK_DIM + head * HEAD_DIM, lane, q);
    for (int e = 0; e < EACH; e++) acc[e] = 0.0f;
    for (int part = 0; part < 2; part++) {
        int first = part == 0 ? s.prefix_start : s.start;
        int last = part == 0 ? s.prefix_start + s.prefix_len : row + 1;
        for (int j = first; j < last; j++) {
            float k[EACH], v[EACH];
            take_head(qk + (u64)j * QK_DIM + Q_DIM + kv * HEAD_DIM, lane, k);
            take_head(qkv + (u64)j * QKV_DIM + QK_DIM + kv * HEAD_DIM, lane, v);
            float x = dot(q, k) * scale, top = fmaxf(max, x);
            float old = expf(max - top), p = expf(x - top);
            sum = sum * old + p;
            for (int e = 0; e < EACH; e++) acc[e] = acc[e] * old + p * v[e];
            max = top;
        }
    }
    T *to = out + (u64)row * Q_DIM + head * HEAD_DIM;
    for (int e = 0; e < EACH; e++)
        if (lane + 32 * e < HEAD_DIM) put(to + lane + 32 * e, acc[e] / sum);
    if (lane == 0) lse[(u64)head * rows + row] = max + logf(sum);
}

// delta[head][row] = d_out . out
extern "C" __global__ void attend_delta(const T *out, const T *d_out, float *delta, int rows) {
    int task = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (task >= rows * HEADS) return;
    int row = task / HEADS, head = task % HEADS;
    float a[EACH], b[EACH];
    take_head(out + (u64)row * Q_DIM + head * HEAD_DIM, lane, a);
    take_head(d_out + (u64)row * Q_DIM + head * HEAD_DIM, lane, b);
    float sum = dot(a, b);
    if (lane == 0) delta[(u64)head * rows + row] = sum;
}

// The queries' part of d_qkv [rows, QKV_DIM].
extern "C" __global__ void attend_dq(const T *qk, const T *qkv, const T *d_out, const Segment *segments, const int *segment_of,
                                     float scale, const float *lse, const float *delta, T *d_qkv, int rows) {
    int task = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (task >= rows * HEADS) return;
    int row = task / HEADS, head = task % HEADS, kv = head / GROUP;
    Segment s = segments[segment_of[row]];
    float q[EACH], d[EACH], acc[EACH];
    take_head(qk + (u64)row * QK_DIM + head * HEAD_DIM, lane, q);
    take_head(d_out + (u64)row * Q_DIM + head * HEAD_DIM, lane, d);
    for (int e = 0; e < EACH; e++) acc[e] = 0.0f;
    float shift = lse[(u64)head * rows + row], mean = delta[(u64)head * rows + row];
    for (int part = 0; part < 2; part++) {
        int first = part == 0 ? s.prefix_start : s.start;
        int last = part == 0 ? s.prefix_start + s.prefix_len : row + 1;
        for (int j = first; j < last; j++) {
            float k[EACH], v[EACH];
            take_head(qk + (u64)j * QK_DIM + Q_DIM + kv * HEAD_DIM, lane, k);
            take_head(qkv + (u64)j * QKV_DIM + QK_DIM + kv * HEAD_DIM, lane, v);
            float p = expf(dot(q, k) * scale - shift), ds = p * (dot(d, v) - mean) * scale;
            for (int e = 0; e < EACH; e++) acc[e] += ds * k[e];
        }
    }
    T *to = d_qkv + (u64)row * QKV_DIM + head * HEAD_DIM;
    for (int e = 0; e < EACH; e++)
        if (lane + 32 * e < HEAD_DIM) put(to + lane + 32 * e, acc[e]);
}

// The keys' and values' part of d_qkv: a warp a row and key head.
extern "C" __global__ void attend_dkv(const T *qk, const T *qkv, const T *d_out, const Segment *segments, const int *segment_of,
                                      float scale, const float *lse, const float *delta, T *d_qkv, int rows) {
    int task = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (task >= rows * KV_HEADS) return;
    int row = task / KV_HEADS, kv = task % KV_HEADS;
    Segment s = segments[segment_of[row]];
    float k[EACH], v[EACH], dk[EACH], dv[EACH];
    take_head(qk + (u64)row * QK_DIM + Q_DIM + kv * HEAD_DIM, lane, k);
    take_head(qkv + (u64)row * QKV_DIM + QK_DIM + kv * HEAD_DIM, lane, v);
    for (int e = 0; e < EACH; e++) dk[e] = dv[e] = 0.0f;
    for (int head = kv * GROUP; head < (kv + 1) * GROUP; head++) {
        for (int part = 0; part < 2; part++) {
            int first = part == 0 ? row : s.children_start;
            int last = part == 0 ? s.start + s.len : s.children_end;
            for (int i = first; i < last; i++) {
                float q[EACH], d[EACH];
                take_head(qk + (u64)i * QK_DIM + head * HEAD_DIM, lane, q);
                take_head(d_out + (u64)i * Q_DIM + head * HEAD_DIM, lane, d);
                float p = expf(dot(q, k) * scale - lse[(u64)head * rows + i]);
                float ds = p * (dot(d, v) - delta[(u64)head * rows + i]) * scale;
                for (int e = 0; e < EACH; e++) {
                    dk[e] += ds * q[e];
                    dv[e] += p * d[e];
                }
            }
        }
    }
    T *to = d_qkv + (u64)row * QKV_DIM + Q_DIM + kv * HEAD_DIM;
    for (int e = 0; e < EACH; e++) {
        if (lane + 32 * e < HEAD_DIM) {
            put(to + lane + 32 * e, dk[e]);
            put(to + KV_DIM + lane + 32 * e, dv[e]);
        }
    }
}
