// What can go wrong: every expected failure is an Error, and the C interface turns it into a status and a line of text.
#pragma once

#include <stdexcept>
#include <string>

#include "i3d.h"

namespace i3d::core {

class Error : public std::runtime_error {
public:
    Error(i3d_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
    i3d_status status() const noexcept { return status_; }

private:
    i3d_status status_;
};

}  // namespace i3d::core
