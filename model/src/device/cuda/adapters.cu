// Adapters added to their base where it becomes elements: out = base + scale A^T B^T in some of a fused matrix's columns.

constexpr int TILE = 64;
constexpr int STEP = 16;

// base: [inner, outer] fp32; a: [rank, inner]; b: [len, rank]; out: [inner, outer] elements, of which the columns
// start .. start + len are written. 256 threads a tile of 64 by 64; sums over the rank in its order.
extern "C" __global__ void merge(const float *base, const float *a, const float *b, T *out, int inner, int outer, int start,
                                 int len, int rank, float scale) {
    __shared__ float as[STEP][TILE], bs[STEP][TILE + 1];
    int i0 = blockIdx.y * TILE, j0 = blockIdx.x * TILE;
    int tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
    float sum[4][4];
    for (int y = 0; y < 4; y++)
        for (int x = 0; x < 4; x++) sum[y][x] = 0.0f;
    for (int r0 = 0; r0 < rank; r0 += STEP) {
        __syncthreads();
        for (int t = threadIdx.x; t < STEP * TILE; t += 256) {
            int r = t / TILE, i = t % TILE;
            as[r][i] = r0 + r < rank && i0 + i < inner ? a[(u64)(r0 + r) * inner + i0 + i] : 0.0f;
            int j = t / STEP, q = t % STEP;
            bs[q][j] = r0 + q < rank && j0 + j < len ? b[(u64)(j0 + j) * rank + r0 + q] : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int r = 0; r < STEP; r++) {
            float left[4], right[4];
            for (int y = 0; y < 4; y++) left[y] = as[r][ty + 16 * y];
            for (int x = 0; x < 4; x++) right[x] = bs[r][tx + 16 * x];
            for (int y = 0; y < 4; y++)
                for (int x = 0; x < 4; x++) sum[y][x] += left[y] * right[x];
        }
    }
    for (int y = 0; y < 4; y++)
        for (int x = 0; x < 4; x++) {
            int i = i0 + ty + 16 * y, j = j0 + tx + 16 * x;
            if (i >= inner || j >= len) continue;
            u64 at = (u64)i * outer + start + j;
            put(out + at, base[at] + scale * sum[y][x]);
        }
}
