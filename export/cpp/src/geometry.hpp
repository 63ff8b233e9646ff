// Which pixels make which crop, from numbers alone: i3d_deploy/geometry.py for testing, in C++.
#pragma once

#include <vector>

#include "card.hpp"

namespace i3d::core {

// Spatial window of size x size pixels.
struct Box {
    int left;
    int top;
};

struct Size {
    int height;
    int width;
};

// Size of a frame after the resize, aspect ratio kept. Throws Error where the frame is narrower than 1:16.
Size resized_size(const Spatial& spatial, int height, int width);

// The crops of a resized frame, in the order of the views.
//   num_crops: 0: the card's; else 1 or 3.
// Throws Error: other numbers, or crops that do not go with the card.
std::vector<Box> crop_boxes(const Spatial& spatial, int height, int width, int num_crops);

// Refuse a number of crops before anything is read.
void check_crops(const Spatial& spatial, int num_crops);

}  // namespace i3d::core
