// C++ objects whose construction and destruction lie outside main: static
// ones that start threads, and thread-local ones that free at a thread's end.
#include "check.h"
#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

using Words = std::vector<std::unique_ptr<std::string>>;

std::atomic<int> built, destroyed;

Words some_words(size_t count) {
    Words words;
    for (size_t i = 0; i < count; i++)
        words.push_back(std::make_unique<std::string>(i * 7 % 900, 'w'));
    return words;
}

// Frees in its destructor what it has, and allocates anew there.
struct Keeper {
    Words words = some_words(100);
    Keeper() { built++; }
    ~Keeper() {
        Words more = some_words(50);
        more.swap(words);
        more.clear();
        destroyed++;
    }
};

// Runs before main and after it, with threads in both.
struct Static {
    std::map<std::string, Words> map;
    Static() {
        std::vector<std::thread> threads;
        std::vector<Words> results(8);
        for (size_t i = 0; i < results.size(); i++)
            threads.emplace_back([&results, i] { results[i] = some_words(300); });
        for (auto &thread : threads)
            thread.join();
        for (size_t i = 0; i < results.size(); i++)
            map[std::to_string(i)] = std::move(results[i]);
    }
    ~Static() {
        CHECK(map.size() == 8);
        CHECK(map["7"].size() == 300);
        std::thread([this] { map.clear(); }).join();
        say("static_destroyed", 1);
    }
};

Static before_and_after_main;
thread_local Keeper first;
thread_local Keeper second;
thread_local std::unique_ptr<Words> from_elsewhere;

void body() {
    // A thread-local object is built at its first use.
    CHECK(first.words.size() == 100);
    Words here = some_words(20);
    CHECK(second.words.size() == 100);
}

} // namespace

int main() {
    for (int round = 0; round < 300; round++) {
        std::vector<std::thread> threads;
        for (int i = 0; i < 6; i++)
            threads.emplace_back(body);
        // This one's thread-local destructor frees main's blocks.
        auto mine = std::make_unique<Words>(some_words(50));
        threads.emplace_back([&mine] { from_elsewhere = std::move(mine); });
        for (auto &thread : threads)
            thread.join();
        CHECK(!mine);
    }
    body();
    // A thread that uses one of a file's objects may get all of them.
    CHECK(built >= 2 * (300 * 6 + 1));
    CHECK(destroyed == built - 2);
    say("main_done", 1);
}
