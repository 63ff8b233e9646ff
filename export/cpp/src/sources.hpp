// Where frames come from: the caller's memory, a function of the caller's, or a video file.
#pragma once

#include <memory>
#include <string>

#include "i3d.h"
#include "views.hpp"

namespace i3d::core {

// Check an image of the caller's. Throws Error: what it says cannot be.
FrameView checked(const i3d_image& image);

// Throws Error: the frames are none, or their sizes cannot be.
std::unique_ptr<Source> source_of(const i3d_frames& frames);
std::unique_ptr<Source> source_of(const i3d_reader& reader);

// Whether this build reads video files.
bool reads_files();

// Throws Error: it cannot be opened as a video, or this build reads no files.
std::unique_ptr<Source> open_file(const std::string& path);

}  // namespace i3d::core
