#pragma once

#include <string>

// Two slots, noise before and after, a clip, a threshold, guidance in two of three rows, levels for a mask.
inline constexpr const char* kProgram =
    R"({"version": 1, "name": "emulated", "slots": 2, "init_scale": 3.5, "guidance_scale": 2.5,
  "guidance_rescale": 0.4, "rows": [
  {"timestep": 1.5, "c_in": 0.4, "c_skip": 0.3, "c_out": 0.9, "level": [1, 3.5], "clip": [-0.9, 0.8],
   "before_noise": [0.3, 0], "after": [[0.6, 0.1, 0.3], [0, 0, 1]]},
  {"timestep": 0.7, "c_in": 0.7, "c_skip": 0.5, "c_out": 0.6, "level": [1, 1.2], "threshold": [0.9, 1.6],
   "before": [[1, 0.2], [0.1, 0.9]], "after": [[0.5, -0.2, 0.7], [0, 0.3, 0.7]], "after_noise": [0.2, 0.1]},
  {"timestep": 0.1, "c_in": 1.1, "c_skip": 0.9, "c_out": 0.2, "guidance": 0, "level": [1, 0.1],
   "after": [[0.1, 0.2, 0.7], [1, 0, 0]], "after_output": [0.05, -0.1]}]})";

// Empty, or what differs between the rows of a program on the CPU and on the emulated GPU.
std::string compare_rows();
