// A function of single bytes by its table, 8 elements a thread: y = table[x], for signed bytes
// table[x + 128].
//
// x [PIXELS, LDX], table [256], y [PIXELS, LDY] as Y_KIND says. Channels C_STORED, a multiple of 8.
#define CHUNKS (C_STORED / 8)
typedef Numbers<Y_KIND>::Type Y;

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const u8* x, const Y* __restrict__ table, Y* y) {
  __shared__ Y results[256];
  for (int i = threadIdx.x; i < 256; i += THREADS) results[i] = table[i];
  release_dependents();
  wait_for_producers();
  __syncthreads();
  int i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= PIXELS * CHUNKS) return;
  int c = i % CHUNKS * 8, pixel = i / CHUNKS;
  uint2 v = *(const uint2*)(x + (u64)pixel * LDX + c);
  Pack<Y, 4> out[2];
#pragma unroll
  for (int q = 0; q < 8; q++) {
    u32 at = ((q < 4 ? v.x : v.y) >> (q % 4 * 8) & 255) ^ (SIGNED ? 128 : 0);
    out[q / 4].v[q % 4] = results[at];
  }
  Y* to = y + (u64)pixel * LDY + c;
  store_pack(to, out[0]);
  store_pack(to + 4, out[1]);
}
