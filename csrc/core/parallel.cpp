#include "core/parallel.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace ae::detail {
namespace {

struct Job {
  Job(int64_t chunks, ChunkFunction function, void* context) : chunks(chunks), function(function), context(context) {}

  void work() {
    try {
      for (int64_t chunk; (chunk = next.fetch_add(1, std::memory_order_relaxed)) < chunks;) function(context, chunk);
    } catch (...) {
      next.store(chunks, std::memory_order_relaxed);
      const std::lock_guard<std::mutex> lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
  }

  const int64_t chunks;
  const ChunkFunction function;
  void* const context;
  std::atomic<int64_t> next{0};
  std::mutex failure_mutex;
  std::exception_ptr failure;
};

class Pool {
 public:
  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  void run(Job& job, int helpers) {
    if (busy_.exchange(true, std::memory_order_acquire)) return job.work();
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      grow(helpers);
      job_ = &job;
      wanted_ = std::min<int>(helpers, static_cast<int>(workers_.size()));
    }
    wake_.notify_all();
    job.work();
    std::unique_lock<std::mutex> lock(mutex_);
    wanted_ = 0;  // who has not begun yet need not
    done_.wait(lock, [this] { return running_ == 0; });
    job_ = nullptr;
    busy_.store(false, std::memory_order_release);
  }

 private:
  void grow(int helpers) {
    try {
      while (static_cast<int>(workers_.size()) < helpers) workers_.emplace_back([this] { serve(); });
    } catch (const std::system_error&) {  // no more threads to be had: fewer do the same work
    }
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return stopping_ || wanted_ > 0; });
      if (stopping_) return;
      --wanted_;
      ++running_;
      Job* const job = job_;
      lock.unlock();
      job->work();
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::atomic<bool> busy_{false};  // with one job; no mutex, because a nested call comes from the thread that holds it
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> workers_;
  Job* job_ = nullptr;
  int wanted_ = 0, running_ = 0;
  bool stopping_ = false;
};

struct OwnedPool {
  const pid_t owner = getpid();
  Pool pool;
};

// A child made by fork has the memory of the pool and none of its threads: it gets a pool of its own. The old one is not freed,
// because its mutexes may have been locked at the fork.
Pool& pool() {
  static struct Holder {
    ~Holder() {
      OwnedPool* const last = current.load();
      if (last && last->owner == getpid()) delete last;
    }
    std::atomic<OwnedPool*> current{nullptr};
  } holder;
  OwnedPool* found = holder.current.load(std::memory_order_acquire);
  if (found && found->owner == getpid()) return found->pool;
  OwnedPool* const fresh = new OwnedPool;
  if (holder.current.compare_exchange_strong(found, fresh, std::memory_order_acq_rel)) return fresh->pool;
  delete fresh;  // another thread was quicker
  return found->pool;
}

}  // namespace

void run_on_pool(int64_t chunks, int threads, ChunkFunction function, void* context) {
  Job job(chunks, function, context);
  pool().run(job, static_cast<int>(std::min<int64_t>(threads, chunks)) - 1);
  if (job.failure) std::rethrow_exception(job.failure);
}

}  // namespace ae::detail
