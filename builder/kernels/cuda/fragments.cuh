// Asynchronous copies into shared memory, zeros where `valid` is false, and fragments of 8x8 matrices
// of 16-bit elements out of it (PTX ISA, "cp.async" and "ldmatrix").
__device__ __forceinline__ void copy16(u32 to, const void* from, bool valid) {
  int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
}
// The same where `there` holds.
__device__ __forceinline__ void copy16(u32 to, const void* from, bool valid, bool there) {
  int bytes = valid ? 16 : 0;
  asm volatile("{.reg .pred p; setp.ne.u32 p, %3, 0; @p cp.async.cg.shared.global [%0], [%1], 16, %2;}" ::"r"(to), "l"(from), "r"(bytes), "r"((u32)there));
}
__device__ __forceinline__ void copy8(u32 to, const void* from, bool valid) {
  int bytes = valid ? 8 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(bytes));
}
__device__ __forceinline__ void copy4(u32 to, const void* from, bool valid) {
  int bytes = valid ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(bytes));
}
__device__ __forceinline__ void load_matrix4(u32* d, u32 at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(at));
}
__device__ __forceinline__ void load_matrix2(u32* d, u32 at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(d[0]), "=r"(d[1]) : "r"(at));
}
