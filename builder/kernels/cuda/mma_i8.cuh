// The warp's product of 8-bit integers on tensor cores, m16n8k32 with s32 sums (PTX ISA,
// "mma.sync"), of u8 or i8, as KIND says, by i8. Fragments are the same bytes of a row as in the f16
// product.
typedef int Sum;
typedef i8 W;

#define MMA_I8(X)                                                                                             \
  asm("mma.sync.aligned.m16n8k32.row.col.s32." X ".s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])                                                        \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
template <int KIND = X_KIND>
__device__ __forceinline__ void mma(Sum* c, const u32* a, const u32* b) {
  if constexpr (KIND == 4) MMA_I8("u8");
  else MMA_I8("s8");
}
