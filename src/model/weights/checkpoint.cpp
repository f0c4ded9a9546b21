// Checkpoints from files (one safetensors file or shards) and from a random number generator.
#include "model/weights/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <unordered_map>
#include <utility>

#include "base/files.h"
#include "compute/ops/random_matrix.h"
#include "model/weights/safetensors.h"
#include "tensor/buffer.h"
#include "tensor/float_formats.h"

namespace deepflight {

class Checkpoint::Source {
 public:
  virtual ~Source() = default;
  virtual bool is_mapped() const = 0;
  virtual bool contains(std::string_view name) const = 0;
  // One tensor as stored, without looking for its scales.
  virtual Result<StoredTensor> load(std::string_view name) const = 0;
  virtual int64_t num_bytes() const = 0;

  std::vector<std::string> names;  // sorted
};

namespace {

constexpr uint64_t kMaxIndexBytes = 100'000'000;
constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";

int64_t num_blocks(int64_t size) { return (size + kF8BlockSize - 1) / kF8BlockSize; }

std::string scale_name(std::string_view name) {
  return std::string(name) + std::string(kScaleSuffix);
}

class FileSource : public Checkpoint::Source {
 public:
  static Result<std::shared_ptr<const FileSource>> open(const std::filesystem::path& model_dir);

  bool is_mapped() const override { return true; }
  bool contains(std::string_view name) const override { return tensors_.contains(name); }

  Result<StoredTensor> load(std::string_view name) const override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) {
      return make_error(ErrorCode::kNotFound, "{}: no tensor '{}'", model_dir_, name);
    }
    const auto& [file, entry] = found->second;
    ASSIGN_OR_RETURN(const TensorView view, file->view(*entry));
    return StoredTensor{.values = view, .scale_inv = {}, .owner = file};
  }

  int64_t num_bytes() const override {
    int64_t total = 0;
    for (const auto& [name, location] : tensors_) {
      total += static_cast<int64_t>(location.entry->end - location.entry->begin);
    }
    return total;
  }

 private:
  using File = std::shared_ptr<const SafetensorsFile>;
  struct Location {
    File file;
    const SafetensorsEntry* entry;
  };

  Status add_single();
  Status add_shards();
  void add(const File& file, const SafetensorsEntry& entry) {
    tensors_.emplace(entry.name, Location{file, &entry});
    names.push_back(entry.name);
  }

  std::string model_dir_;
  std::unordered_map<std::string_view, Location> tensors_;  // keys point into the files' entries
};

Result<std::shared_ptr<const SafetensorsFile>> open_file(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::open(path));
  return std::make_shared<const SafetensorsFile>(std::move(file));
}

Status FileSource::add_single() {
  ASSIGN_OR_RETURN(const File file, open_file(std::filesystem::path(model_dir_) / kSingleFile));
  for (const auto& entry : file->entries()) add(file, entry);
  return ok_status();
}

// A plain file name of the model directory: an index must not reach other places.
bool is_plain_file_name(const std::string& name) {
  const auto is_control = [](unsigned char c) { return c < 0x20 || c == 0x7f; };
  return name.ends_with(".safetensors") && name.size() <= 255 && name.front() != '.' &&
         name.find_first_of("/\\") == std::string::npos &&
         std::none_of(name.begin(), name.end(), is_control);
}

Status FileSource::add_shards() {
  const auto path = std::filesystem::path(model_dir_) / kIndexFile;
  ASSIGN_OR_RETURN(const nlohmann::json index, read_json_file(path, kMaxIndexBytes));
  const auto weight_map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || weight_map == index.end() || !weight_map->is_object()) {
    return invalid_argument("{}: no weight_map object", path.string());
  }
  std::map<std::string, File> files;
  for (const auto& [name, value] : weight_map->items()) {
    if (!value.is_string() || !is_plain_file_name(value.get_ref<const std::string&>())) {
      return invalid_argument(
          "{}: tensor {}: shard {} is not a .safetensors file name of this "
          "directory",
          path.string(), nlohmann::json(name).dump(), value.dump());
    }
    const auto& file_name = value.get_ref<const std::string&>();
    File& file = files[file_name];
    if (file == nullptr) {
      ASSIGN_OR_RETURN(file, open_file(std::filesystem::path(model_dir_) / file_name));
    }
    const SafetensorsEntry* entry = file->find(name);
    if (entry == nullptr) {
      return invalid_argument("{}: tensor {} is not in {}", path.string(),
                              nlohmann::json(name).dump(), file_name);
    }
    add(file, *entry);
  }
  return ok_status();
}

Result<std::shared_ptr<const FileSource>> FileSource::open(const std::filesystem::path& model_dir) {
  auto source = std::make_shared<FileSource>();
  source->model_dir_ = model_dir.string();
  std::error_code ignored;
  if (std::filesystem::exists(model_dir / kSingleFile, ignored)) {
    RETURN_IF_ERROR(source->add_single());
  } else if (std::filesystem::exists(model_dir / kIndexFile, ignored)) {
    RETURN_IF_ERROR(source->add_shards());
  } else {
    return make_error(ErrorCode::kNotFound, "{}: neither {} nor {} is there", model_dir.string(),
                      kSingleFile, kIndexFile);
  }
  std::sort(source->names.begin(), source->names.end());
  return std::shared_ptr<const FileSource>(std::move(source));
}

uint64_t mix(uint64_t x) {  // splitmix64's finaliser
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

uint64_t hash_name(std::string_view name, uint64_t seed) {
  uint64_t hash = mix(seed + 0x9e3779b97f4a7c15ULL);
  for (const char c : name) hash = mix(hash ^ static_cast<unsigned char>(c));
  return hash;
}

class DummySource : public Checkpoint::Source {
 public:
  DummySource(std::vector<DummyTensor> tensors, uint64_t seed)
      : tensors_(std::move(tensors)), seed_(seed) {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const auto& tensor = tensors_[i];
      const bool is_float = tensor.dtype == DType::kF32 || tensor.dtype == DType::kBF16;
      if (tensor.shape.size() == 1) {
        CHECK(is_float, tensor.name);
        CHECK(
            tensor.values.empty() || static_cast<int64_t>(tensor.values.size()) == tensor.shape[0],
            tensor.name);
      } else {
        CHECK(tensor.shape.size() == 2 && tensor.mean == 0.0f && tensor.values.empty(),
              tensor.name);
        CHECK(is_float || tensor.dtype == DType::kF8E4M3, tensor.name);
      }
      index_.emplace(tensor.name, i);
      names.push_back(tensor.name);
      if (tensor.dtype == DType::kF8E4M3) {
        index_.emplace(scale_name(tensor.name), i);
        names.push_back(scale_name(tensor.name));
      }
    }
    std::sort(names.begin(), names.end());
  }

  bool is_mapped() const override { return false; }
  bool contains(std::string_view name) const override { return index_.contains(std::string(name)); }

  Result<StoredTensor> load(std::string_view name) const override {
    const auto found = index_.find(std::string(name));
    if (found == index_.end()) {
      return make_error(ErrorCode::kNotFound, "dummy weights: no tensor '{}'", name);
    }
    const auto& tensor = tensors_[found->second];
    if (name != tensor.name) return make_scales(tensor);
    if (tensor.shape.size() == 1) return make_vector(tensor);
    return StoredTensor{
        .values = TensorView(nullptr, tensor.dtype, {tensor.shape[0], tensor.shape[1]}),
        .scale_inv = {},
        .owner = {},
        .random = fill_of(tensor)};
  }

  int64_t num_bytes() const override {
    int64_t total = 0;
    for (const auto& tensor : tensors_) {
      const int64_t columns = tensor.shape.size() == 2 ? tensor.shape[1] : 1;
      total += tensor.shape[0] * columns * dtype_bytes(tensor.dtype);
      if (tensor.dtype == DType::kF8E4M3) {
        total += num_blocks(tensor.shape[0]) * num_blocks(columns) * int64_t{sizeof(float)};
      }
    }
    return total;
  }

 private:
  StoredTensor make_vector(const DummyTensor& tensor) const;
  StoredTensor make_scales(const DummyTensor& tensor) const;
  RandomFill fill_of(const DummyTensor& tensor) const {
    return {hash_name(tensor.name, seed_), tensor.standard_deviation};
  }

  std::vector<DummyTensor> tensors_;
  uint64_t seed_;
  std::unordered_map<std::string, size_t> index_;
};

StoredTensor DummySource::make_vector(const DummyTensor& tensor) const {
  const int64_t count = tensor.shape[0];
  std::vector<float> values = tensor.values;
  if (values.empty()) {
    values.resize(static_cast<size_t>(count));
    fill_random(fill_of(tensor), DType::kF32, 0, count, values.data());
    for (float& value : values) value += tensor.mean;
  }
  auto memory = std::make_shared<Buffer>(Buffer::host(count * dtype_bytes(tensor.dtype)));
  if (tensor.dtype == DType::kF32) {
    std::memcpy(memory->data(), values.data(), values.size() * sizeof(float));
  } else {
    auto* bits = static_cast<uint16_t*>(memory->data());
    for (size_t i = 0; i < values.size(); ++i) bits[i] = f32_to_bf16(values[i]);
  }
  void* data = memory->data();
  return {.values = TensorView(data, tensor.dtype, {count}),
          .scale_inv = {},
          .owner = std::move(memory)};
}

StoredTensor DummySource::make_scales(const DummyTensor& tensor) const {
  const int64_t row_blocks = num_blocks(tensor.shape[0]);
  const int64_t column_blocks = num_blocks(tensor.shape[1]);
  const int64_t count = row_blocks * column_blocks;
  auto memory = std::make_shared<Buffer>(Buffer::host(count * int64_t{sizeof(float)}));
  fill_random_scales(fill_of(tensor), count, static_cast<float*>(memory->data()));
  void* data = memory->data();
  return {.values = TensorView(data, DType::kF32, {row_blocks, column_blocks}),
          .scale_inv = {},
          .owner = std::move(memory)};
}

}  // namespace

Result<Checkpoint> Checkpoint::open(const std::filesystem::path& model_dir) {
  ASSIGN_OR_RETURN(std::shared_ptr<const Source> source, FileSource::open(model_dir));
  return Checkpoint(std::move(source));
}

Checkpoint Checkpoint::dummy(std::vector<DummyTensor> tensors, uint64_t seed) {
  return Checkpoint(std::make_shared<const DummySource>(std::move(tensors), seed));
}

bool Checkpoint::is_mapped() const { return source_->is_mapped(); }

bool Checkpoint::contains(std::string_view name) const { return source_->contains(name); }

Result<StoredTensor> Checkpoint::tensor(std::string_view name) const {
  ASSIGN_OR_RETURN(StoredTensor tensor, source_->load(name));
  const std::string scales = scale_name(name);
  if (tensor.random || !source_->contains(scales)) return tensor;
  ASSIGN_OR_RETURN(const StoredTensor scale, source_->load(scales));
  if (tensor.values.rank() != 2 || tensor.values.dtype() != DType::kF8E4M3) {
    return invalid_argument("tensor '{}': {} has block scales, which only F8_E4M3 matrices take",
                            name, tensor.values.to_string());
  }
  const TensorView expected(nullptr, DType::kF32,
                            {num_blocks(tensor.values.dim(0)), num_blocks(tensor.values.dim(1))});
  if (scale.values.to_string() != expected.to_string()) {
    return invalid_argument("tensor '{}': expected {} for {}, found {}", scales,
                            expected.to_string(), tensor.values.to_string(),
                            scale.values.to_string());
  }
  // Values and scales may lie in different shards.
  tensor.owner =
      std::make_shared<std::pair<std::shared_ptr<const void>, std::shared_ptr<const void>>>(
          tensor.owner, scale.owner);
  tensor.scale_inv = scale.values;
  return tensor;
}

const std::vector<std::string>& Checkpoint::names() const { return source_->names; }

int64_t Checkpoint::num_bytes() const { return source_->num_bytes(); }

}  // namespace deepflight
