// What the kernels of several convolutions (conv_pair.cu, conv_chain.cu) share: how sums end, a cluster's
// barrier, bulk copies and their barriers.
#define ELEMENT ((int)sizeof(W))
#define PIECE (16 / ELEMENT)

#if INTEGER
typedef float2 End;
#else
typedef float End;
#endif
#if SPLIT > 1
#define CLUSTER_SHAPE __cluster_dims__(SPLIT, 1, 1)
#else
#define CLUSTER_SHAPE
#endif
typedef Numbers<R_KIND>::Type R;

__device__ __forceinline__ float with_end(Sum sum, End end) {
#if INTEGER
  return __fmaf_rn((float)sum, end.x, end.y);
#else
  return sum + end;
#endif
}
template <int KIND>
__device__ __forceinline__ float activated(float v, float a, float b) {
#if INTEGER
  return activate_exact<KIND>(v, a, b);
#else
  return activate<KIND>(v, a, b);
#endif
}
__device__ __forceinline__ float with_residual(float v, R r) {
#if IS_INTEGER(R_KIND)
  return __fmaf_rn(distance<R_KIND>(r, R_ZERO), R_SCALE, v);
#else
  return __fadd_rn(v, number(r));
#endif
}
#if SPLIT > 1
// Of execution alone: what is sent is counted by barriers in shared memory, whose own fence makes them known.
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
#endif

#if BULK_WEIGHTS
// Barriers that count the bytes of bulk copies (PTX ISA, "cp.async.bulk"): each waited for once.
__device__ __forceinline__ u32 barrier_of(int which) {
  __shared__ __align__(8) u64 landed[BARRIERS];
  return (u32)__cvta_generic_to_shared(landed + which);
}
__device__ __forceinline__ void expect(int which, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier_of(which)), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_bulk(u32 to, const W* from, u32 bytes, int which) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes), "r"(barrier_of(which)) : "memory");
}
__device__ __forceinline__ void wait_for(int which) {
  u32 done = 0;
  while (!done)
    asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p;}" : "=r"(done) : "r"(barrier_of(which)) : "memory");
}
__device__ __forceinline__ void open_barriers() {
#pragma unroll
  for (int i = 0; i < BARRIERS; i++) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier_of(i)) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// Sends bytes of shared memory to another block of the cluster, whose barrier `which` counts them; both
// addresses are this block's own.
__device__ __forceinline__ void send(u32 to, u32 from, u32 bytes, int which, int block) {
  u32 there, barrier;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(to), "r"(block));
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(barrier) : "r"(barrier_of(which)), "r"(block));
  asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(there), "r"(from), "r"(bytes), "r"(barrier) : "memory");
}
#endif
