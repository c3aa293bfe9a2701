// The end of an f16 convolution: partial sums of the blocks that share K, bias, residual,
// activation, stores. Sums are as mma.sync and wgmma leave them: rows lane / 4 and + 8, columns
// lane % 4 * 2 and + 1 of each 16 x 8 piece.
//
// Blocks of a cluster send each row's sums to the block that finishes it (distributed shared
// memory), so that one barrier is exposed; without clusters the last block to arrive adds up
// what the others left in memory.

// Rows that this block finishes, and where its residual and its inbox lie in shared memory.
#define OWN_ROWS (CLUSTER ? BM / SPLIT : BM)
#define RESIDUAL_PITCH (BN + 8)
#define INBOX_PITCH (BN + 4)
#define PREFETCH_RESIDUAL (RESIDUAL && (SPLIT == 1 || CLUSTER))

// Starts copying the residual of the rows that this block finishes.
__device__ __forceinline__ void prefetch_residual(u32 base, const f16* res, int n0, int tid) {
#if PREFETCH_RESIDUAL
  constexpr int CHUNKS = BN / 8;
  const int first = CLUSTER ? (int)blockIdx.z * OWN_ROWS : 0;
#pragma unroll
  for (int i = tid; i < OWN_ROWS * CHUNKS; i += THREADS) {
    int r = i / CHUNKS, c = i % CHUNKS * 8, p = output_pixel(first + r);
    bool valid = p >= 0 && n0 + c < OC_STORED;
    copy16(base + RESIDUAL_AT + (r * RESIDUAL_PITCH + c) * 2, valid ? res + (u64)p * LDR + n0 + c : res, valid);
  }
#endif
}

__device__ __forceinline__ void cluster_arrive() {
#if CLUSTER
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if CLUSTER
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ float finished(float v, float add) {
#if RESIDUAL_LAST
  return activate<ACT>(v, ACT_A, ACT_B) + add;
#else
  return activate<ACT>(v + add, ACT_A, ACT_B);
#endif
}

// All copies have landed. `shared` and `base` are one address, generic and shared.
__device__ __forceinline__ void finish(float (&acc)[WM / 16][WN / 8][4], u8* shared, u32 base, const float* shared_bias,
                                       f16* y, const f16* res, float* __restrict__ partial, int* __restrict__ tickets) {
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, wr = warp / WC, wc = warp % WC;
  const int n0 = blockIdx.x * BN, row0 = wr * WM + (lane >> 2), col0 = wc * WN + (lane & 3) * 2;
#if CLUSTER
#if !INBOX_APART
  // The inbox lies over the stages: no block sends before all have read theirs.
  cluster_arrive();
#endif
  cluster_wait();
#pragma unroll
  for (int i = 0; i < WM / 16; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      int row = row0 + i * 16 + h * 8;
      u32 to, local = base + INBOX_AT + (((int)blockIdx.z * OWN_ROWS + row % OWN_ROWS) * INBOX_PITCH + col0) * 4;
      asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(local), "r"(row / OWN_ROWS));
#pragma unroll
      for (int j = 0; j < WN / 8; j++)
        asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(to + j * 32), "f"(acc[i][j][h * 2]), "f"(acc[i][j][h * 2 + 1]) : "memory");
    }
  cluster_arrive();
  cluster_wait();
  const float* inbox = (const float*)(shared + INBOX_AT);
  const f16* residual = (const f16*)(shared + RESIDUAL_AT);
#pragma unroll
  for (int p = tid; p < OWN_ROWS * BN / 4; p += THREADS) {
    int r = p / (BN / 4), c = p % (BN / 4) * 4, n = n0 + c, pixel = output_pixel((int)blockIdx.z * OWN_ROWS + r);
    if (pixel < 0 || n >= OC_STORED) continue;
    float v[4] = {shared_bias[c], shared_bias[c + 1], shared_bias[c + 2], shared_bias[c + 3]};
#pragma unroll
    for (int z = 0; z < SPLIT; z++) {
      float4 part = *(const float4*)(inbox + (z * OWN_ROWS + r) * INBOX_PITCH + c);
      v[0] += part.x, v[1] += part.y, v[2] += part.z, v[3] += part.w;
    }
    float add[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (RESIDUAL) {
      uint2 t = *(const uint2*)(residual + r * RESIDUAL_PITCH + c);
      add[0] = low_f32(t.x), add[1] = high_f32(t.x), add[2] = low_f32(t.y), add[3] = high_f32(t.y);
    }
#pragma unroll
    for (int q = 0; q < 4; q++) v[q] = finished(v[q], add[q]);
    *(uint2*)(y + (u64)pixel * LDY + n) = make_uint2(pack_f16(v[0], v[1]), pack_f16(v[2], v[3]));
  }
#else
#if SPLIT > 1
  __shared__ int is_last;
  const int tile = blockIdx.y * gridDim.x + blockIdx.x;
  float* mine = partial + (u64)(tile * SPLIT + blockIdx.z) * (BM * BN);
#pragma unroll
  for (int i = 0; i < WM / 16; i++)
#pragma unroll
    for (int j = 0; j < WN / 8; j++)
#pragma unroll
      for (int h = 0; h < 2; h++)
        __stcg((float2*)(mine + (row0 + i * 16 + h * 8) * BN + col0 + j * 8), make_float2(acc[i][j][h * 2], acc[i][j][h * 2 + 1]));
  __threadfence();
  __syncthreads();
  if (tid == 0) {
    is_last = atomicAdd(tickets + tile, 1) == SPLIT - 1;
    if (is_last) tickets[tile] = 0;  // ready for the next run
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  for (int z = 0; z < SPLIT; z++) {
    if (z == (int)blockIdx.z) continue;
    const float* other = partial + (u64)(tile * SPLIT + z) * (BM * BN);
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
      for (int j = 0; j < WN / 8; j++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
          float2 v = __ldcg((const float2*)(other + (row0 + i * 16 + h * 8) * BN + col0 + j * 8));
          acc[i][j][h * 2] += v.x, acc[i][j][h * 2 + 1] += v.y;
        }
  }
#else
  __syncthreads();  // bias and residual, copied by other threads
#endif
#pragma unroll
  for (int i = 0; i < WM / 16; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      int row = row0 + i * 16 + h * 8, pixel = output_pixel(row);
      if (pixel < 0) continue;
#pragma unroll
      for (int j = 0; j < WN / 8; j++) {
        int c = col0 + j * 8, n = n0 + c;
        if (n >= OC_STORED) continue;
        float p = acc[i][j][h * 2] + shared_bias[c], q = acc[i][j][h * 2 + 1] + shared_bias[c + 1];
        float add_p = 0.0f, add_q = 0.0f;
        if (RESIDUAL) {
          u32 r = PREFETCH_RESIDUAL ? *(const u32*)(shared + RESIDUAL_AT + (row * RESIDUAL_PITCH + c) * 2)
                                    : *(const u32*)(res + (u64)pixel * LDR + n);
          add_p = low_f32(r), add_q = high_f32(r);
        }
        p = finished(p, add_p), q = finished(q, add_q);
        *(u32*)(y + (u64)pixel * LDY + n) = pack_f16(p, q);
      }
    }
#endif
}
