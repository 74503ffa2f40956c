// Choice of a token from logits, with the meaning and the order of transformers' logits processors.
#pragma once
#include <cstdint>
#include <vector>

namespace fastiter::decode {

struct Sampling {
    double temperature = 1;
    int64_t top_k = 0;             // 0: all
    double top_p = 1;              // 1: all
    double min_p = 0;              // 0: all
    double repetition_penalty = 1; // 1: none
};

// The tokens that a row has had, and memory for its choices
class Sampler {
public:
    Sampler(const Sampling& options, int64_t vocabulary);

    void see(int64_t token); // for the repetition penalty; other numbers than tokens are ignored
    // u: a uniform number in [0, 1), or null for the most probable token, the first of equal ones. Returns -1 if a logit
    // is NaN, or none is finite, or one is infinity.
    template <class T> int64_t choose(const T* logits, const double* u);

private:
    struct Candidate {
        int64_t token;
        double weight; // its probability relative to that of the most probable token
    };
    void weigh(int64_t best, double temperature);
    void keep_nucleus();
    double least_of_top_k();
    int64_t draw(double u);

    Sampling options_;
    std::vector<bool> seen_; // empty without a penalty
    std::vector<double> scores_, heap_;
    std::vector<Candidate> candidates_;
};

} // namespace fastiter::decode
