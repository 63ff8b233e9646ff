#include "sha256.hpp"

#include "errors.hpp"

#ifdef I3D_WITH_OPENSSL
#include <openssl/evp.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <memory>
#include <vector>
#endif

namespace i3d::core {

#ifdef I3D_WITH_OPENSSL
std::string sha256_of_file(const std::string& path) {
    std::ifstream stream(path, std::ios::binary);
    const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
    bool is_good = stream.good() && context && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1;
    std::vector<char> block(std::size_t{1} << 20U);
    while (is_good && stream) {
        stream.read(block.data(), static_cast<std::streamsize>(block.size()));
        is_good = EVP_DigestUpdate(context.get(), block.data(), static_cast<std::size_t>(stream.gcount())) == 1;
    }
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned int size = 0;
    if (!is_good || stream.bad() || EVP_DigestFinal_ex(context.get(), digest.data(), &size) != 1) {
        throw Error(I3D_ERROR_ARTIFACT, path + ": cannot be read");
    }
    std::string text;
    for (unsigned int i = 0; i < size; ++i) {
        char pair[3];
        std::snprintf(pair, sizeof pair, "%02x", digest[i]);
        text += pair;
    }
    return text;
}
#else
std::string sha256_of_file(const std::string& path) {
    throw Error(I3D_ERROR_BACKEND, path +
                                       ": this libi3d was built without OpenSSL, and a plan is native code that is not "
                                       "loaded unchecked: build it where OpenSSL's headers are");
}
#endif

}  // namespace i3d::core
