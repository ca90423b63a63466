// A library that host.c opens: C++ in a process whose program is C.
#include "check.h"
#include <new>

namespace {

constexpr size_t kTooLarge = size_t{1} << 46;
int handled;

void handler() {
    handled++;
    std::set_new_handler(nullptr);
}

} // namespace

extern "C" void run() {
    bool caught = false;
    try {
        char *p = new char[kTooLarge];
        delete[] p;
    } catch (const std::bad_alloc &) {
        caught = true;
    }
    CHECK(caught);
    std::set_new_handler(handler);
    CHECK(!new (std::nothrow) char[kTooLarge]);
    CHECK(handled == 1);
    std::set_new_handler(handler);
    CHECK(!::operator new(kTooLarge, std::align_val_t{64}, std::nothrow));
    CHECK(handled == 2);
}
