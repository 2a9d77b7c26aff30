// The table of ops: one entry per folder of csrc/ops, listed by CMake in op_list.inc. A table and no static initialisers, because
// a static library drops objects that nothing refers to.
#include "core/error.hpp"
#include "ops/ops.hpp"

namespace ae::ops {

#define AE_OP(op) extern const Op op##_op;
#include "op_list.inc"
#undef AE_OP

const std::vector<const Op*>& all() {
#define AE_OP(op) &op##_op,
  static const std::vector<const Op*> ops = {
#include "op_list.inc"
  };
#undef AE_OP
  return ops;
}

const Op& find(const std::string& name) {
  std::string known;
  for (const Op* op : all()) {
    if (name == op->name) return *op;
    known += (known.empty() ? "" : ", ") + std::string(op->name);
  }
  throw Error(kInvalidArgument, "there is no native op \"" + name + "\": there are " + known);
}

}  // namespace ae::ops
