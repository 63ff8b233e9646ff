#include "i3d.hpp"

std::size_t probe_cpp();

std::size_t probe_cpp() {
    const i3d::Recognizer recognizer("model.xml");
    i3d::Stream stream(recognizer);
    while (const auto found = stream.next()) {
        static_cast<void>(found->prediction.top());
    }
    return recognizer.predict_file("clip.mp4").top(5).size();
}
