// What `compare.cpp` calls.
#pragma once

#include "interface.hpp"

void check_products(const steelyard::Routines* routines, const steelyard::Routines* portable, int count);
void check_steps(const steelyard::Routines* routines, const steelyard::Routines* portable, int count);
void check_recurrences(const steelyard::Routines* routines, const steelyard::Routines* portable, int count);
