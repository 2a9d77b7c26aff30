#pragma once

#include <string>

// Empty, or what differs between the rows of a program on the CPU and on the emulated GPU.
std::string compare_rows();
