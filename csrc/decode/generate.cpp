// The loop of steps and choices of tokens.
#include "core/threads/waiting.hpp"
#include "decode/stepper.hpp"
#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace fastiter::decode {
namespace {

constexpr int64_t kWorkOfAStep = 1 << 12; // operations for small models, besides the weights' and the vocabulary's
constexpr int64_t kPause = 500'000'000;   // ns after which the number of threads is chosen again

void require(bool good, const std::string& what) {
    if (!good) throw std::invalid_argument("generate: " + what);
}

void check_options(const Generation& g) {
    const Sampling& s = g.sampling;
    require(g.count >= 1, "max_new_tokens must be at least 1, got " + text(g.count));
    require(s.temperature > 0 && s.temperature < HUGE_VAL,
            "temperature must be finite and above 0, got " + text(s.temperature));
    require(s.top_k >= 0, "top_k must be at least 0, got " + text(s.top_k));
    require(s.top_p > 0 && s.top_p <= 1, "top_p must be above 0 and at most 1, got " + text(s.top_p));
    require(s.min_p >= 0 && s.min_p <= 1, "min_p must be at least 0 and at most 1, got " + text(s.min_p));
    require(s.repetition_penalty > 0 && s.repetition_penalty < HUGE_VAL,
            "repetition_penalty must be finite and above 0, got " + text(s.repetition_penalty));
}

} // namespace

// A generation in progress
template <class T> struct Stepper<T>::Run {
    const Generation& g;
    int rows;
    std::vector<Sampler> samplers; // one for each row
    int64_t tokens[kMaxRows], positions[kMaxRows];
    bool has_ended[kMaxRows] = {};
    int64_t done = 0; // steps
    int wrong = -1;   // a row without a finite largest logit
    bool is_over = false;

    Run(const Generation& of, const Places& places, int64_t vocabulary) : g(of), rows(places.rows) {
        std::copy_n(g.first, rows, tokens);
        std::copy_n(places.positions, rows, positions);
        std::fill_n(g.out, rows * g.count, g.pad);
        for (int b = 0; b < rows; ++b) {
            samplers.emplace_back(g.sampling, vocabulary);
            for (int64_t i = 0; i < g.seen_count; ++i) samplers.back().see(g.seen[b * g.seen_count + i]);
            samplers.back().see(tokens[b]);
        }
    }

    void choose(int b, const T* logits) {
        if (has_ended[b]) return;
        tokens[b] = samplers[size_t(b)].choose(logits, g.uniform ? g.uniform + b * g.count + done : nullptr);
    }

    // Records the tokens of a step.
    void record() {
        bool all_ended = true;
        for (int b = 0; b < rows; ++b) {
            ++positions[b];
            if (has_ended[b]) continue;
            if (tokens[b] < 0) {
                wrong = b;
                continue;
            }
            g.out[b * g.count + done] = tokens[b];
            samplers[size_t(b)].see(tokens[b]);
            has_ended[b] = std::find(g.stops, g.stops + g.stop_count, tokens[b]) != g.stops + g.stop_count;
            if (has_ended[b]) tokens[b] = g.pad;
            all_ended &= has_ended[b];
        }
        ++done;
        is_over = wrong >= 0 || all_ended || done == g.count;
    }
};

template <class T> void Stepper<T>::advance(Run& run) {
    run.record();
    if (run.is_over) return;
    ++step_.length;
    fill_angles(run.positions);
}

template <class T> void Stepper<T>::generate_for_a_while(Run& run, Team team) {
    const int64_t end = wall_clock() + kPause;
    while (!run.is_over) {
        kernels().run(step_, team);
        wait(*team.barriers, team.size);
        for (int b = team.id; b < run.rows; b += team.size) run.choose(b, logits_of(b));
        wait(*team.barriers, team.size);
        if (team.id == 0) {
            advance(run);
            pauses_ = wall_clock() > end;
            has_to_stop(team, operations_.bytes + kWorkOfAStep + vocabulary());
        }
        wait(*team.barriers, team.size);
        if (pauses_ || __atomic_load_n(&team.stop->is_requested, __ATOMIC_RELAXED)) return;
    }
}

template <class T> int64_t Stepper<T>::generate(const Places& places, const Generation& g) {
    const Use use(*this);
    check_options(g);
    check("generate", places, g.first, g.count);
    check_tokens("generate", "pad", &g.pad, 1);
    for (int64_t i = 0; g.uniform && i < places.rows * g.count; ++i)
        require(g.uniform[i] >= 0 && g.uniform[i] < 1,
                "uniform must be at least 0 and below 1, got " + text(g.uniform[i]) + " at index " + text(i));
    require(operations_.vocabulary == 0 || vocabulary() <= operations_.vocabulary,
            "the embedding must have all " + text(vocabulary()) + " tokens, got " + text(operations_.vocabulary));
    Run run(g, places, vocabulary());
    Places at = places;
    at.positions = run.positions;
    prepare(at, run.tokens);
    while (!run.is_over)
        launch([&](Team team) { generate_for_a_while(run, team); },
               [&](int threads) { return prepare_threads(threads); }, Stops::on_request);
    if (run.wrong >= 0)
        throw std::runtime_error("generate: the largest logit must be finite and none NaN, got others in row " +
                                 text(run.wrong) + " at step " + text(run.done - 1));
    return run.done;
}

template int64_t Stepper<float>::generate(const Places&, const Generation&);
template int64_t Stepper<double>::generate(const Places&, const Generation&);

} // namespace fastiter::decode
