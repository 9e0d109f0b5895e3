// Threads that share one piece of work after another, and the barrier between its phases.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace steelyard {

inline void pause_briefly() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Work is a function of the thread's number; inside it, `barrier()` waits for all. Whoever calls `run` is thread 0;
// callers take turns.
class Pool {
  public:
    explicit Pool(int threads) : threads_(threads < 1 ? 1 : threads) {
        for (int i = 1; i < threads_; i++) workers_.emplace_back([this, i] { wait_for_work(i); });
    }

    ~Pool() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            ending_ = true;
            round_.fetch_add(1, std::memory_order_release);
        }
        begin_.notify_all();
        for (auto& worker : workers_) worker.join();
    }

    int threads() const { return threads_; }

    void run(const std::function<void(int)>& work) {
        std::lock_guard<std::mutex> turn(callers_);
        if (threads_ == 1) return work(0);
        work_ = &work;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            round_.fetch_add(1, std::memory_order_release);
        }
        begin_.notify_all();
        work(0);
        barrier();
    }

    // Every thread of the current work waits here for the others. Spins, since phases take microseconds, then gives way: where
    // other programs hold the cores, spinning would keep the others from arriving.
    void barrier() {
        if (threads_ == 1) return;
        const unsigned turn = turn_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
            arrived_.store(0, std::memory_order_relaxed);
            turn_.store(turn + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; turn_.load(std::memory_order_acquire) == turn; spins++) spins < SPINS ? pause_briefly() : std::this_thread::yield();
    }

  private:
    static constexpr int SPINS = 4000;

    void wait_for_work(int number) {
        unsigned seen = 0;
        while (true) {
            for (int spins = 0; spins < SPINS && round_.load(std::memory_order_acquire) == seen; spins++) pause_briefly();
            if (round_.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> lock(mutex_);
                begin_.wait(lock, [&] { return round_.load(std::memory_order_acquire) != seen; });
            }
            seen++;
            if (ending_) return;
            (*work_)(number);
            barrier();
        }
    }

    const int threads_;
    std::vector<std::thread> workers_;
    std::mutex callers_, mutex_;
    std::condition_variable begin_;
    const std::function<void(int)>* work_ = nullptr;
    std::atomic<unsigned> round_{0}, turn_{0};
    std::atomic<int> arrived_{0};
    bool ending_ = false;
};

// The part of `count` things that belongs to one of `threads`, in whole multiples of `grain`.
struct Share {
    int begin, end;
    Share(int count, int thread, int threads, int grain = 1) {
        const long grains = (count + grain - 1) / grain;
        begin = (int)(grains * thread / threads) * grain;
        end = (int)(grains * (thread + 1) / threads) * grain;
        if (end > count) end = count;
        if (begin > count) begin = count;
    }
};

}  // namespace steelyard
