#pragma once

#include <string>

namespace i3d::core {

// SHA-256 of a file's bytes in hexadecimal. Throws Error: it cannot be read, or this build has no OpenSSL.
std::string sha256_of_file(const std::string& path);

}  // namespace i3d::core
