// RUN: hamkaas-opt %s -t cuda | filecheck %s

// A kernel reads like one that was written by hand: const and restrict where they hold, one wide load, named lanes.
// CHECK-LABEL: // scale: 1 blocks of 4 threads
// CHECK-NEXT: extern "C" __global__ void __launch_bounds__(4) scale(
// CHECK-NEXT: const float* __restrict__ x,
// CHECK-NEXT: float* __restrict__ out) {
// CHECK-NEXT: const int thread = static_cast<int>(threadIdx.x);
// CHECK-NEXT: const int i = thread * 4;
// CHECK-NEXT: const uint4 v_raw = load_stream_16(&x[i]);
// CHECK-NEXT: const float v_0 = __uint_as_float(v_raw.x), v_1 = __uint_as_float(v_raw.y)
// CHECK-NEXT: const float twice_0 = v_0 * 2.0f
// CHECK-NEXT: *reinterpret_cast<float4*>(&out[i]) = make_float4(twice_0, twice_1, twice_2, twice_3);
kernel.func @scale(%x: memref<16xf32>, %out: memref<16xf32>) attributes {grid = 1 : i64, block = 4 : i64, inputs = 1 : i64, results = array<i64: 1>, label = "scale"} {
  %c4 = arith.constant 4 : index
  %two = arith.constant dense<2.0> : vector<4xf32>
  %thread = kernel.thread_id
  %i = arith.muli %thread, %c4 : index
  %v = kernel.load %x[%i] align 16 cache stream : memref<16xf32> -> vector<4xf32>
  %twice = arith.mulf %v, %two : vector<4xf32>
  kernel.store %twice, %out[%i] align 16 : vector<4xf32>, memref<16xf32>
  kernel.return
}

// Loop variables that change places are saved before they are overwritten.
// CHECK-LABEL: void __launch_bounds__(32) swap(
// CHECK: float a = 0.0f;
// CHECK-NEXT: float b = 1.0f;
// CHECK-NEXT: for (int k = 0; k < 4; ++k) {
// CHECK-NEXT: const auto a_old = a;
// CHECK-NEXT: a = b;
// CHECK-NEXT: b = a_old;
// CHECK-NEXT: }
kernel.func @swap(%out: memref<2xf32>) attributes {grid = 1 : i64, block = 32 : i64, inputs = 0 : i64, results = array<i64: 0>} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c4 = arith.constant 4 : index
  %zero = arith.constant 0.0 : f32
  %one = arith.constant 1.0 : f32
  %p, %q = scf.for %k = %c0 to %c4 step %c1 iter_args(%a = %zero, %b = %one) -> (f32, f32) {
    scf.yield %b, %a : f32, f32
  }
  kernel.store %p, %out[%c0] : f32, memref<2xf32>
  kernel.store %q, %out[%c1] : f32, memref<2xf32>
  kernel.return
}

// CHECK-LABEL: void __launch_bounds__(64) shared(
// CHECK: __shared__ __align__(16) float s[64];
// CHECK: if (first) {
// CHECK: __syncthreads();
// CHECK: __shfl_xor_sync(0xffffffffu, {{.*}}, 16);
kernel.func @shared(%x: memref<64xf32>, %out: memref<64xf32>) attributes {grid = 1 : i64, block = 64 : i64, inputs = 1 : i64, results = array<i64: 1>} {
  %s = kernel.alloc : memref<64xf32, #kernel<space shared>>
  %c32 = arith.constant 32 : index
  %thread = kernel.thread_id
  %first = arith.cmpi slt, %thread, %c32 : index
  scf.if %first {
    %v = kernel.load %x[%thread] : memref<64xf32> -> f32
    kernel.store %v, %s[%thread] : f32, memref<64xf32, #kernel<space shared>>
  }
  kernel.barrier
  %w = kernel.load %s[%thread] : memref<64xf32, #kernel<space shared>> -> f32
  %y = kernel.shuffle_xor %w, 16 : f32
  kernel.store %y, %out[%thread] : f32, memref<64xf32>
  kernel.return
}

// What is const and restrict may be read whenever the compiler likes; where a kernel waits, that would be after the
// wait that the load stands before. As the load of a weight has no other reason to stay, it is no .nc either.
// CHECK-LABEL: void __launch_bounds__(32) waits(
// CHECK-NEXT: const float* x,
// CHECK-NEXT: const float* w,
// CHECK-NEXT: float* __restrict__ out) {
// CHECK: load_stream_4(&w[thread])
// CHECK-NEXT: asm volatile("griddepcontrol.wait;" ::: "memory");
// CHECK-NEXT: x[thread]
kernel.func @waits(%x: memref<32xf32>, %w: memref<32xf32>, %out: memref<32xf32>) attributes {grid = 1 : i64, block = 32 : i64, inputs = 2 : i64, results = array<i64: 2>, constants = array<i64: 1>} {
  %thread = kernel.thread_id
  %v = kernel.load %w[%thread] cache stream : memref<32xf32> -> f32
  kernel.wait_dependency
  %u = kernel.load %x[%thread] : memref<32xf32> -> f32
  %y = arith.addf %u, %v : f32
  kernel.store %y, %out[%thread] : f32, memref<32xf32>
  kernel.return
}

// An index is not negative, so that powers of two divide by a shift; of six it is left to the compiler.
// CHECK-LABEL: void __launch_bounds__(32) divisions(
// CHECK: thread >> 3;
// CHECK-NEXT: thread & 7;
// CHECK-NEXT: thread / 6;
kernel.func @divisions(%out: memref<32xf32>) attributes {grid = 1 : i64, block = 32 : i64, inputs = 0 : i64, results = array<i64: 0>} {
  %c6 = arith.constant 6 : index
  %c8 = arith.constant 8 : index
  %zero = arith.constant 0.0 : f32
  %thread = kernel.thread_id
  %0 = arith.divui %thread, %c8 : index
  %1 = arith.remui %thread, %c8 : index
  %2 = arith.divui %thread, %c6 : index
  %3 = arith.addi %0, %1 : index
  %4 = arith.addi %3, %2 : index
  kernel.store %zero, %out[%4] : f32, memref<32xf32>
  kernel.return
}

// The lanes of a vector are added up in two chains, which products join as one instruction each.
// CHECK-LABEL: void __launch_bounds__(32) sum(
// CHECK: = ({{[a-z0-9_]+}} + {{[a-z0-9_]+}} + {{[a-z0-9_]+}} + {{[a-z0-9_]+}}) + ({{[a-z0-9_]+}} + {{[a-z0-9_]+}} + {{[a-z0-9_]+}} + {{[a-z0-9_]+}});
// CHECK: = fmaxf(fmaxf(fmaxf(
kernel.func @sum(%x: memref<8xf32>, %out: memref<2xf32>) attributes {grid = 1 : i64, block = 32 : i64, inputs = 1 : i64, results = array<i64: 1>} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %v = kernel.load %x[%c0] : memref<8xf32> -> vector<8xf32>
  %s = kernel.reduce add %v : vector<8xf32> -> f32
  %m = kernel.reduce max %v : vector<8xf32> -> f32
  kernel.store %s, %out[%c0] : f32, memref<2xf32>
  kernel.store %m, %out[%c1] : f32, memref<2xf32>
  kernel.return
}

// Blocks of a cluster: what one leaves in the memory of the other is read after a barrier, whose halves stand apart.
// CHECK-LABEL: // kernel: 4 blocks of 32 threads, 2 blocks together
// CHECK-NEXT: extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(32, 2) together(
// CHECK: asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
// CHECK: asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
// CHECK: store_cluster_16(&s[{{.*}}], 1, x_0, x_1, x_2, x_3);
// CHECK-NEXT: store_cluster_4(&s[thread], 1, y);
// CHECK-NEXT: store_cluster_4(&s[thread], 1, x_0);
// CHECK-NEXT: store_cluster_4(&s[thread + 1], 1, x_1);
// CHECK: asm volatile("barrier.cluster.arrive.release;" ::: "memory");
kernel.func @together(%in: memref<128xf32>) attributes {grid = 4 : i64, block = 32 : i64, inputs = 1 : i64, results = array<i64>, cluster = 2 : i64, min_blocks = 2 : i64} {
  %c4 = arith.constant 4 : index
  %rank = arith.constant 1 : index
  %s = kernel.alloc : memref<128xf32, #kernel<space shared>>
  kernel.cluster_arrive relaxed
  %thread = kernel.thread_id
  %i = arith.muli %thread, %c4 : index
  %x = kernel.load %in[%i] align 16 : memref<128xf32> -> vector<4xf32>
  %y = kernel.load %in[%thread] : memref<128xf32> -> f32
  kernel.cluster_wait
  kernel.cluster_store %x, %s[%i] of %rank align 16 : vector<4xf32>, memref<128xf32, #kernel<space shared>>
  kernel.cluster_store %y, %s[%thread] of %rank : f32, memref<128xf32, #kernel<space shared>>
  kernel.cluster_store %x, %s[%thread] of %rank : vector<4xf32>, memref<128xf32, #kernel<space shared>>
  kernel.cluster_arrive
  kernel.cluster_wait
  kernel.return
}

// Eight f32 are two accesses of 16 bytes, eight f16 are one; a vector is exchanged lane by lane.
// CHECK-LABEL: void __launch_bounds__(32) eight(
// CHECK: const uint4 x_raw = *reinterpret_cast<const uint4*>(&in[i]);
// CHECK-NEXT: const uint4 x_raw_1 = *reinterpret_cast<const uint4*>(&in[i + 4]);
// CHECK-NEXT: x_0 = __uint_as_float(x_raw.x), {{.*}} x_7 = __uint_as_float(x_raw_1.w);
// CHECK: const uint4 h_raw = *reinterpret_cast<const uint4*>(&narrow[i]);
// CHECK-NEXT: h_0 = static_cast<unsigned short>(h_raw.x >> 0), h_1 = {{.*}} h_7 = static_cast<unsigned short>(h_raw.w >> 16);
// CHECK: z_0 = __shfl_xor_sync(0xffffffffu, y_0, 1), z_1 = __shfl_xor_sync(0xffffffffu, y_1, 1)
// CHECK: *reinterpret_cast<float4*>(&out[i]) = make_float4(z_0, z_1, z_2, z_3);
// CHECK-NEXT: *reinterpret_cast<float4*>(&out[i + 4]) = make_float4(z_4, z_5, z_6, z_7);
kernel.func @eight(%in: memref<256xf32>, %narrow: memref<256xf16>, %out: memref<256xf32>) attributes {grid = 1 : i64, block = 32 : i64, inputs = 2 : i64, results = array<i64: 2>} {
  %c8 = arith.constant 8 : index
  %thread = kernel.thread_id
  %i = arith.muli %thread, %c8 : index
  %x = kernel.load %in[%i] align 16 : memref<256xf32> -> vector<8xf32>
  %h = kernel.load %narrow[%i] align 16 : memref<256xf16> -> vector<8xf16>
  %w = kernel.convert %h : vector<8xf16> -> vector<8xf32>
  %y = arith.mulf %x, %w : vector<8xf32>
  %z = kernel.shuffle_xor %y, 1 : vector<8xf32>
  kernel.store %z, %out[%i] align 16 : vector<8xf32>, memref<256xf32>
  kernel.return
}
