// The table of ops: one entry per folder of csrc/ops, listed by CMake in op_list.inc. A table and no static initialisers, because
// a static library drops objects that nothing refers to.
#include "core/error.hpp"
#include "ops/ops.hpp"

namespace ae::ops {

#define AE_OP(op) BoundOp bind_##op(Arguments&);
#include "op_list.inc"
#undef AE_OP

const std::vector<Op>& all() {
#define AE_OP(op) {#op, bind_##op},
  static const std::vector<Op> ops = {
#include "op_list.inc"
  };
#undef AE_OP
  return ops;
}

const Op& find(const std::string& name) {
  std::string known;
  for (const Op& op : all()) {
    if (name == op.name) return op;
    known += (known.empty() ? "" : ", ") + std::string(op.name);
  }
  throw Error(kInvalidArgument, "there is no native op \"" + name + "\": there are " + known);
}

std::vector<Parameter> parameters_of(const Op& op) {
  std::vector<Parameter> parameters;
  Arguments arguments(&parameters);
  op.bind(arguments);
  return parameters;
}

}  // namespace ae::ops
