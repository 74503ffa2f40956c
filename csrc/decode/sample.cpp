#include "decode/sample.hpp"
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>

namespace fastiter::decode {

Sampler::Sampler(const Sampling& options, int64_t vocabulary)
    : options_(options), seen_(options.repetition_penalty == 1 ? 0 : size_t(vocabulary)), scores_(size_t(vocabulary)) {}

void Sampler::see(int64_t token) {
    if (token >= 0 && token < int64_t(seen_.size())) seen_[size_t(token)] = true;
}

template <class T> int64_t Sampler::choose(const T* logits, const double* u) {
    std::copy_n(logits, scores_.size(), scores_.begin());
    for (size_t i = 0; i < seen_.size(); ++i)
        if (double& x = scores_[i]; seen_[i])
            x = x < 0 ? x * options_.repetition_penalty : x / options_.repetition_penalty;
    size_t best = 0;
    bool is_nan = false;
    for (size_t i = 0; i < scores_.size(); ++i) {
        if (scores_[i] > scores_[best]) best = i;
        is_nan |= scores_[i] != scores_[i];
    }
    if (is_nan || !std::isfinite(scores_[best])) return -1;
    if (!u) return int64_t(best);
    weigh(int64_t(best), options_.temperature);
    if (options_.top_p < 1) keep_nucleus();
    // The most probable token stays, as its weight is 1.
    std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < std::min(options_.min_p, 1.0); });
    return draw(*u);
}

// The k-th largest score
double Sampler::least_of_top_k() {
    const size_t k = size_t(options_.top_k);
    heap_.assign(scores_.begin(), scores_.begin() + std::ptrdiff_t(k));
    std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
    for (size_t i = k; i < scores_.size(); ++i) {
        if (!(scores_[i] > heap_.front())) continue;
        std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
        heap_.back() = scores_[i];
        std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
    }
    return heap_.front();
}

// The candidates are the tokens of the top_k largest scores, and those whose score equals the smallest of them.
void Sampler::weigh(int64_t best, double temperature) {
    const bool is_limited = options_.top_k > 0 && options_.top_k < int64_t(scores_.size());
    const double largest = scores_[size_t(best)], least = is_limited ? least_of_top_k() : -HUGE_VAL;
    candidates_.clear();
    for (size_t i = 0; i < scores_.size(); ++i)
        if (scores_[i] >= least) candidates_.push_back({int64_t(i), std::exp((scores_[i] - largest) / temperature)});
}

// Keeps the most probable tokens: those for which the sum of the more probable ones is below top_p.
void Sampler::keep_nucleus() {
    auto is_below = [](const Candidate& a, const Candidate& b) {
        return a.weight != b.weight ? a.weight < b.weight : a.token > b.token;
    };
    double total = 0, sum = 0;
    for (const Candidate& c : candidates_) total += c.weight;
    std::make_heap(candidates_.begin(), candidates_.end(), is_below);
    auto end = candidates_.end(); // the kept ones are from here on
    while (end != candidates_.begin() && (end == candidates_.end() || sum < options_.top_p * total)) {
        std::pop_heap(candidates_.begin(), end, is_below);
        --end;
        sum += end->weight;
    }
    candidates_.erase(candidates_.begin(), end);
    std::sort(candidates_.begin(), candidates_.end(),
              [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
}

// The first token, in increasing order, at which the sum of the probabilities exceeds u
int64_t Sampler::draw(double u) {
    double total = 0, sum = 0;
    for (const Candidate& c : candidates_) total += c.weight;
    int64_t last = 0; // one with a weight above 0: rounding may leave the sum below u
    for (const Candidate& c : candidates_) {
        sum += c.weight;
        if (c.weight > 0) last = c.token;
        if (sum > u * total) break;
    }
    return last;
}

template int64_t Sampler::choose(const float*, const double*);
template int64_t Sampler::choose(const double*, const double*);

} // namespace fastiter::decode
