// As much of CUDA as kernels.cu needs, for g++: blocks run one after the other, and so do the
// threads of a block. The threads of a kernel that synchronises are fibres, which change at each
// __syncthreads; those of any other kernel are calls in a loop.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__ static  // there is one block at a time

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

static int min(int a, int b) { return a < b ? a : b; }
static int max(int a, int b) { return a > b ? a : b; }

template <typename T>
static T atomicAdd(T* at, T value) {
    T old = *at;
    *at += value;
    return old;
}

static float from_half(unsigned short bits) {
    _Float16 value;
    std::memcpy(&value, &bits, 2);
    return value;
}

static unsigned short to_half(float value) {
    _Float16 rounded = value;
    unsigned short bits;
    std::memcpy(&bits, &rounded, 2);
    return bits;
}

struct Fibre {
    Index thread;
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[stack_size]};
    bool done = false;
    static constexpr size_t stack_size = 64 * 1024;
};
static ucontext_t scheduler;
static Fibre* running;
static const std::function<void()>* body;

static void __syncthreads() { swapcontext(&running->context, &scheduler); }

static void run_fibre() {
    (*body)();
    running->done = true;
}

// Each round takes every thread of the block from one __syncthreads to the next.
static void run_synchronised(std::vector<Fibre>& fibres) {
    for (Fibre& fibre : fibres) {
        fibre.done = false;
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack.get();
        fibre.context.uc_stack.ss_size = Fibre::stack_size;
        fibre.context.uc_link = &scheduler;
        makecontext(&fibre.context, run_fibre, 0);
    }
    for (bool alive = true; alive;) {
        alive = false;
        for (Fibre& fibre : fibres) {
            if (fibre.done) continue;
            running = &fibre;
            threadIdx = fibre.thread;
            swapcontext(&scheduler, &fibre.context);
            alive |= !fibre.done;
        }
    }
}

static void run(const Index& grid, const Index& block, bool synchronises,
                const std::function<void()>& thread) {
    gridDim = grid, blockDim = block, body = &thread;
    std::vector<Index> threads;
    for (unsigned z = 0; z < block.z; z++)
        for (unsigned y = 0; y < block.y; y++)
            for (unsigned x = 0; x < block.x; x++) threads.push_back({x, y, z});
    std::vector<Fibre> fibres(synchronises ? threads.size() : 0);
    for (size_t i = 0; i < fibres.size(); i++) fibres[i].thread = threads[i];
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++)
                if (synchronises)
                    run_synchronised(fibres);
                else
                    for (const Index& index : threads) threadIdx = index, thread();
}

// Arguments lie where the pointers point, as cuLaunchKernel takes them.
template <typename... A, size_t... I>
static void launch(void (*kernel)(A...), const Index* shape, bool synchronises, void** arguments,
                   std::index_sequence<I...>) {
    run(shape[0], shape[1], synchronises, [&] { kernel(*(A*)arguments[I]...); });
}

template <typename... A>
static void launch(void (*kernel)(A...), const Index* shape, bool synchronises, void** arguments) {
    launch(kernel, shape, synchronises, arguments, std::index_sequence_for<A...>());
}

// The function of a shared library that runs a kernel; shape: the grid and the block.
#define KERNEL(name, synchronises)                                            \
    extern "C" void run_##name(const Index* shape, void** arguments) {        \
        launch(name, shape, synchronises, arguments);                         \
    }
