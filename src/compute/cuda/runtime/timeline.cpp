// CUPTI's activity API, loaded at run time.
#include "compute/cuda/runtime/timeline.h"

#include <cupti.h>
#include <cxxabi.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <unordered_map>

#include "base/check.h"

namespace deepflight {
namespace {

// The calls are recorded because the link from a kernel to its range goes through its call.
constexpr CUpti_ActivityKind kKinds[] = {CUPTI_ACTIVITY_KIND_RUNTIME,
                                         CUPTI_ACTIVITY_KIND_DRIVER,
                                         CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
                                         CUPTI_ACTIVITY_KIND_MEMCPY,
                                         CUPTI_ACTIVITY_KIND_MEMSET,
                                         CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION};
constexpr auto kRangeKind = CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0;

struct Cupti {
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks = nullptr;
  decltype(&cuptiActivityEnable) enable = nullptr;
  decltype(&cuptiActivityDisable) disable = nullptr;
  decltype(&cuptiActivityFlushAll) flush_all = nullptr;
  decltype(&cuptiActivityGetNextRecord) next_record = nullptr;
  decltype(&cuptiActivityPushExternalCorrelationId) push_id = nullptr;
  decltype(&cuptiActivityPopExternalCorrelationId) pop_id = nullptr;
  decltype(&cuptiGetResultString) result_string = nullptr;
};

struct Recording {
  struct Item {
    DeviceActivity activity;
    uint32_t correlation_id = 0;
  };

  std::mutex mutex;
  std::vector<Item> items;
  std::unordered_map<uint32_t, uint64_t> range_of_correlation;
  std::vector<std::string> ranges;  // by external id - 1
};

std::atomic<bool> is_recording = false;
Recording records;
thread_local std::string current_section;

Status load(Cupti* cupti) {
  void* library = nullptr;
  for (const char* name : {"libcupti.so.13", "/usr/local/cuda/lib64/libcupti.so.13",
                           "/usr/local/cuda/extras/CUPTI/lib64/libcupti.so.13"}) {
    library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) break;
  }
  if (library == nullptr) {
    return make_error(ErrorCode::kUnavailable, "CUPTI (libcupti.so.13) cannot be loaded: {}",
                      dlerror());
  }
  const auto find = [&](const char* name, auto* function) {
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(dlsym(library, name));
    return *function != nullptr;
  };
  if (!find("cuptiActivityRegisterCallbacks", &cupti->register_callbacks) ||
      !find("cuptiActivityEnable", &cupti->enable) ||
      !find("cuptiActivityDisable", &cupti->disable) ||
      !find("cuptiActivityFlushAll", &cupti->flush_all) ||
      !find("cuptiActivityGetNextRecord", &cupti->next_record) ||
      !find("cuptiActivityPushExternalCorrelationId", &cupti->push_id) ||
      !find("cuptiActivityPopExternalCorrelationId", &cupti->pop_id) ||
      !find("cuptiGetResultString", &cupti->result_string)) {
    return make_error(ErrorCode::kUnavailable, "CUPTI: {}", dlerror());
  }
  return ok_status();
}

Cupti cupti;

std::string demangle(const char* name) {
  int status = 0;
  char* readable = abi::__cxa_demangle(name, nullptr, nullptr, &status);
  std::string result = status == 0 ? readable : name;
  std::free(readable);
  return result;
}

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* size, size_t* max_records) {
  constexpr size_t kBufferBytes = size_t{4} << 20;
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(64, kBufferBytes));
  *size = *buffer == nullptr ? 0 : kBufferBytes;
  *max_records = 0;
}

template <typename Record>
Recording::Item copy_item(const Record* record, const char* name) {
  Recording::Item item;
  item.activity.name = name;
  item.activity.begin_ns = static_cast<int64_t>(record->start);
  item.activity.end_ns = static_cast<int64_t>(record->end);
  item.activity.stream_id = record->streamId;
  item.activity.in_graph = record->graphId != 0;
  item.correlation_id = record->correlationId;
  return item;
}

void take_record(const CUpti_Activity* record) {
  switch (record->kind) {
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
      const auto* kernel = reinterpret_cast<const CUpti_ActivityKernel10*>(record);
      records.items.push_back(copy_item(kernel, ""));
      records.items.back().activity.name = demangle(kernel->name);
      break;
    }
    case CUPTI_ACTIVITY_KIND_MEMCPY:
      records.items.push_back(
          copy_item(reinterpret_cast<const CUpti_ActivityMemcpy6*>(record), "memcpy"));
      break;
    case CUPTI_ACTIVITY_KIND_MEMSET:
      records.items.push_back(
          copy_item(reinterpret_cast<const CUpti_ActivityMemset4*>(record), "memset"));
      break;
    case CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION: {
      const auto* link = reinterpret_cast<const CUpti_ActivityExternalCorrelation*>(record);
      if (link->externalKind == kRangeKind) {
        records.range_of_correlation[link->correlationId] = link->externalId;
      }
      break;
    }
    default:
      break;
  }
}

void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid_size) {
  {
    std::lock_guard lock(records.mutex);
    CUpti_Activity* record = nullptr;
    while (cupti.next_record(buffer, valid_size, &record) == CUPTI_SUCCESS) take_record(record);
  }
  std::free(buffer);
}

Status check(CUptiResult result, const char* what) {
  if (result == CUPTI_SUCCESS) return ok_status();
  const char* text = "unknown";
  cupti.result_string(result, &text);
  return make_error(ErrorCode::kUnavailable, "CUPTI: {}: {}", what, text);
}

}  // namespace

Status Timeline::start() {
  CHECK(!is_recording, "one recording at a time");
  if (cupti.enable == nullptr) {
    Cupti loaded;
    RETURN_IF_ERROR(load(&loaded));
    cupti = loaded;
    RETURN_IF_ERROR(
        check(cupti.register_callbacks(give_buffer, take_buffer), "activity callbacks"));
  }
  records.items.clear();
  records.range_of_correlation.clear();
  records.ranges.clear();
  for (const auto kind : kKinds) {
    RETURN_IF_ERROR(check(cupti.enable(kind), "activity records"));
  }
  is_recording = true;
  return ok_status();
}

std::vector<DeviceActivity> Timeline::stop() {
  CHECK(is_recording, "nothing records");
  is_recording = false;
  cupti.flush_all(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  for (const auto kind : kKinds) cupti.disable(kind);
  std::lock_guard lock(records.mutex);
  std::vector<DeviceActivity> activities;
  for (auto& item : records.items) {
    const auto range = records.range_of_correlation.find(item.correlation_id);
    if (range != records.range_of_correlation.end()) {
      item.activity.range = records.ranges[range->second - 1];
    }
    activities.push_back(std::move(item.activity));
  }
  std::ranges::stable_sort(activities, {}, &DeviceActivity::begin_ns);
  return activities;
}

bool Timeline::recording() { return is_recording; }

void Timeline::set_section(std::string section) {
  if (is_recording) current_section = std::move(section);
}

TimelineRange::TimelineRange(const char* op) {
  if (is_recording) open(op);
}

TimelineRange::TimelineRange(const char* op, int64_t n, int64_t k) {
  if (is_recording) open(fmt::format("{} {}x{}", op, n, k));
}

void TimelineRange::open(const std::string& op) {
  uint64_t id = 0;
  {
    std::lock_guard lock(records.mutex);
    records.ranges.push_back(current_section + "/" + op);
    id = records.ranges.size();
  }
  open_ = cupti.push_id(kRangeKind, id) == CUPTI_SUCCESS;
}

TimelineRange::~TimelineRange() {
  if (!open_) return;
  uint64_t id = 0;
  cupti.pop_id(kRangeKind, &id);
}

}  // namespace deepflight
