// Reads a card that was damaged in many ways: each ends in a card or in an Error, never in anything else.
//
//     mutate_card CARD.json CASES
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "card.hpp"
#include "errors.hpp"
#include "geometry.hpp"
#include "sampling.hpp"

namespace {

using Random = std::mt19937;

std::size_t below(Random& random, std::size_t limit) { return limit == 0 ? 0 : random() % limit; }

const char* const kPieces[] = {
    "null",         "-1",           "0",           "1e308",     "1e-9",      "99999999999999999999",
    "4294967296",   "65536",        "1.5",         "\"\"",      "[]",        "{}",
    "true",         "NaN",          "\"uniform\"", "\"whole\"", "\"dense\"", "\"slowfast\"",
    "\\u0000",      "\"\xff\xfe\"", "[[[[[[[[",    "}}}}",      ",",         ":",
    "\"version\":2"};

const double kRates[] = {0, 29.97, 0.1, 1000, 7.5};

// Where a value begins: after a colon or a bracket.
std::size_t value_after(const std::string& text, std::size_t start) {
    const std::size_t found = text.find_first_of(":[,", start);
    return found == std::string::npos ? 0 : found + 1;
}

std::string mutated(std::string text, Random& random) {
    for (std::size_t change = 0; change <= below(random, 3); ++change) {
        const std::size_t place = below(random, text.size());
        const std::string piece = kPieces[below(random, std::size(kPieces))];
        switch (below(random, 6)) {
            case 0:
                text = text.substr(0, place);
                break;
            case 1:
                text[text.empty() ? 0 : place] = static_cast<char>(random());
                break;
            case 2:
                text.insert(place, piece);
                break;
            case 3:
                text.erase(place, 1 + below(random, 12));
                break;
            case 4:
                text.insert(place, text.substr(below(random, text.size() + 1), below(random, 200)));
                break;
            default: {
                const std::size_t begin = value_after(text, place);
                const std::size_t end = text.find_first_of(",}]", begin);
                text.replace(begin, end == std::string::npos ? end : end - begin, piece);
            }
        }
        if (text.empty()) {
            break;
        }
    }
    return text;
}

// Use what was read as a prediction does.
void use(const i3d::core::Card& card, Random& random) {
    const double rate = kRates[below(random, std::size(kRates))];
    const auto num_frames = static_cast<std::int64_t>(1 + below(random, 100000));
    const i3d::core::Indices indices = i3d::core::frame_indices(card.sampling, num_frames, rate, 1);
    i3d::core::span(card.sampling, rate);
    for (const std::int64_t index : indices.frames) {
        if (index < 0 || index >= num_frames) {
            std::fprintf(stderr, "frame %lld of %lld\n", static_cast<long long>(index),
                         static_cast<long long>(num_frames));
            std::abort();
        }
    }
    const i3d::core::Size size = i3d::core::resized_size(card.spatial, 240, 320);
    i3d::core::crop_boxes(card.spatial, size.height, size.width, 0);
}

}  // namespace

int main(int count, char** words) {
    if (count != 3) {
        return 2;
    }
    std::ifstream stream(words[1], std::ios::binary);
    const std::string card{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    i3d::core::read_card(card, "the card as it is");
    Random random(20260101);
    long read = 0;
    long refused = 0;
    for (long number = std::atol(words[2]); number > 0; --number) {
        try {
            use(i3d::core::read_card(mutated(card, random), "a damaged file"), random);
            ++read;
        } catch (const i3d::core::Error&) {
            ++refused;
        }
    }
    std::printf("%ld read, %ld refused\n", read, refused);
    return 0;
}
