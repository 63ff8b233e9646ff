#include "geometry.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "errors.hpp"

namespace i3d::core {
namespace {

constexpr int kMaxAspect = 16;

std::string text(int height, int width) { return std::to_string(width) + "x" + std::to_string(height); }

// Along the longer side: left, right, center, as mmaction2 has them. An odd rest means that the "right" crop misses the
// last column: so in the original.
std::vector<Box> mmaction2_crops(int height, int width, int size) {
    if (height == size) {
        const int step = (width - size) / 2;
        return {{0, 0}, {2 * step, 0}, {step, 0}};
    }
    const int step = (height - size) / 2;
    return {{0, 0}, {0, 2 * step}, {0, step}};
}

// Left, center, right, as SlowFast has them.
std::vector<Box> slowfast_crops(int height, int width, int size) {
    const int top = (height - size + 1) / 2;
    const int left = (width - size + 1) / 2;
    if (height > width) {
        return {{left, 0}, {left, top}, {left, height - size}};
    }
    return {{0, top}, {left, top}, {width - size, top}};
}

}  // namespace

Size resized_size(const Spatial& spatial, int height, int width) {
    if (std::max(height, width) > kMaxAspect * std::min(height, width)) {
        throw Error(I3D_ERROR_VIDEO, "frames of " + text(height, width) + " are narrower than 1:16");
    }
    const double short_side = spatial.short_side;
    if (spatial.formula == SpatialFormula::kSlowFast) {
        if (width < height) {
            const double longer = static_cast<double>(height) / width * short_side;
            return {static_cast<int>(std::floor(longer)), spatial.short_side};
        }
        const double longer = static_cast<double>(width) / height * short_side;
        return {spatial.short_side, static_cast<int>(std::floor(longer))};
    }
    const double factor = short_side / std::min(height, width);
    return {static_cast<int>(height * factor + 0.5), static_cast<int>(width * factor + 0.5)};
}

void check_crops(const Spatial& spatial, int num_crops) {
    if (num_crops != 0 && num_crops != 1 && num_crops != 3) {
        throw Error(I3D_ERROR_INPUT, "crops (" + std::to_string(num_crops) + ") must be 1 or 3, or 0 for the card's");
    }
    const bool is_mmaction2 = spatial.formula == SpatialFormula::kMMAction;
    if (num_crops == 3 && is_mmaction2 && spatial.crop_size != spatial.short_side) {
        throw Error(I3D_ERROR_INPUT, "crops (3) need a crop_size equal to short_side, and the card has crop_size " +
                                         std::to_string(spatial.crop_size) + " and short_side " +
                                         std::to_string(spatial.short_side) + ": give 1");
    }
}

std::vector<Box> crop_boxes(const Spatial& spatial, int height, int width, int num_crops) {
    check_crops(spatial, num_crops);
    const int count = num_crops == 0 ? spatial.num_crops : num_crops;
    const int size = spatial.crop_size;
    if (std::min(height, width) < size) {
        throw Error(I3D_ERROR_INPUT, "crops of " + std::to_string(size) + " do not fit into " + text(height, width));
    }
    if (spatial.formula == SpatialFormula::kSlowFast) {
        const std::vector<Box> crops = slowfast_crops(height, width, size);
        return count == 3 ? crops : std::vector<Box>{crops[1]};
    }
    if (count == 1) {
        return {{(width - size) / 2, (height - size) / 2}};
    }
    if (std::min(height, width) != size) {
        throw Error(I3D_ERROR_INPUT, "three crops of " + std::to_string(size) +
                                         " need a frame whose shorter side is as long, not " + text(height, width));
    }
    return mmaction2_crops(height, width, size);
}

}  // namespace i3d::core
