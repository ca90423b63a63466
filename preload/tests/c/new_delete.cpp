// The C++ operators new and delete in all their forms.
#include "check.h"
#include <dlfcn.h>
#include <memory>
#include <new>
#include <string>
#include <vector>

namespace {

using std::align_val_t;
using std::nothrow;

constexpr size_t kTooLarge = size_t{1} << 62;

bool aligned_to(const void *p, size_t a) {
    return reinterpret_cast<uintptr_t>(p) % a == 0;
}

void *take(void *p, size_t size, size_t align) {
    CHECK(p);
    CHECK(aligned_to(p, align));
    CHECK(malloc_usable_size(p) >= size);
    fill(p, size, static_cast<unsigned>(size));
    CHECK(holds(p, size, static_cast<unsigned>(size)));
    return p;
}

// Every form of new against every form of delete that may free its block.
void forms(int, char **) {
    for (size_t n = 0; n < 300 * KIB; n = n < 1100 ? n + 1 : n * 5 / 4) {
        ::operator delete(take(::operator new(n), n, 16));
        ::operator delete(take(::operator new(n), n, 16), n);
        ::operator delete(take(::operator new(n), n, 16), nothrow);
        ::operator delete(take(::operator new(n, nothrow), n, 16));
        ::operator delete(take(::operator new(n, nothrow), n, 16), n);
        ::operator delete[](take(::operator new[](n), n, 16));
        ::operator delete[](take(::operator new[](n), n, 16), n);
        ::operator delete[](take(::operator new[](n), n, 16), nothrow);
        ::operator delete[](take(::operator new[](n, nothrow), n, 16));
        ::operator delete[](take(::operator new[](n, nothrow), n, 16), n);
        // What libstdc++ and many programs rely on.
        free(take(::operator new(n), n, 16));
        ::operator delete(take(malloc(n), n, 16));
    }
    for (size_t a = 1; a <= 256 * KIB; a *= 2)
        for (size_t n = 0; n < 300 * KIB; n = n * 3 + 7) {
            auto al = static_cast<align_val_t>(a);
            ::operator delete(take(::operator new(n, al), n, a), al);
            ::operator delete(take(::operator new(n, al), n, a), n, al);
            ::operator delete(take(::operator new(n, al), n, a), al, nothrow);
            ::operator delete(take(::operator new(n, al, nothrow), n, a), al);
            ::operator delete(take(::operator new(n, al, nothrow), n, a), n, al);
            ::operator delete[](take(::operator new[](n, al), n, a), al);
            ::operator delete[](take(::operator new[](n, al), n, a), n, al);
            ::operator delete[](take(::operator new[](n, al), n, a), al, nothrow);
            ::operator delete[](take(::operator new[](n, al, nothrow), n, a), al);
            ::operator delete[](take(::operator new[](n, al, nothrow), n, a), n, al);
        }
}

void null_is_nothing(int, char **) {
    char *p = HIDE(static_cast<char *>(nullptr));
    auto al = static_cast<align_val_t>(64);
    ::operator delete(p);
    ::operator delete(p, 100);
    ::operator delete(p, nothrow);
    ::operator delete(p, al);
    ::operator delete(p, 100, al);
    ::operator delete(p, al, nothrow);
    ::operator delete[](p);
    ::operator delete[](p, 100);
    ::operator delete[](p, nothrow);
    ::operator delete[](p, al);
    ::operator delete[](p, 100, al);
    ::operator delete[](p, al, nothrow);
}

void zero_is_unique(int, char **) {
    void *a = ::operator new(0), *b = ::operator new(0), *c = ::operator new[](0);
    CHECK(a && b && c && a != b && b != c && a != c);
    ::operator delete(a);
    ::operator delete(b);
    ::operator delete[](c);
}

int calls;

void gives_up_after_three() {
    if (++calls == 3)
        std::set_new_handler(nullptr);
}

void throws_own() {
    ++calls;
    throw std::bad_alloc();
}

template <typename F> bool throws_bad_alloc(F f) {
    try {
        void *p = f();
        CHECK(p == nullptr);
        CHECK(!"a throwing new returned null");
    } catch (const std::bad_alloc &) {
        return true;
    }
    return false;
}

template <typename F> void throwing_form(F f) {
    std::set_new_handler(nullptr);
    CHECK(throws_bad_alloc(f));
    calls = 0;
    std::set_new_handler(gives_up_after_three);
    CHECK(throws_bad_alloc(f));
    CHECK(calls == 3);
    calls = 0;
    std::set_new_handler(throws_own);
    CHECK(throws_bad_alloc(f));
    CHECK(calls == 1);
    std::set_new_handler(nullptr);
}

template <typename F> void nothrow_form(F f) {
    std::set_new_handler(nullptr);
    CHECK(f() == nullptr);
    calls = 0;
    std::set_new_handler(gives_up_after_three);
    CHECK(f() == nullptr);
    CHECK(calls == 3);
    std::set_new_handler(nullptr);
}

// Destructors run while the exception passes through frames that allocate.
struct Guard {
    std::unique_ptr<std::string> text{new std::string(100, 'x')};
    int *count;
    explicit Guard(int *c) : count(c) {}
    ~Guard() { ++*count; }
};

__attribute__((noinline)) void *deep(int depth, int *count) {
    Guard guard(count);
    if (depth > 0)
        return deep(depth - 1, count);
    return ::operator new(HIDE(kTooLarge));
}

// libstdc++ rounds the size up to the alignment without a look at overflow.
bool wraps(size_t n) { return on_system() && n > ~size_t{0} - 64; }

void throwing(int, char **) {
    auto al = static_cast<align_val_t>(64);
    for (size_t size : {kTooLarge, size_t{1} << 63, ~size_t{0}, ~size_t{0} - 64}) {
        size_t n = HIDE(size);
        throwing_form([=] { return ::operator new(n); });
        throwing_form([=] { return ::operator new[](n); });
        if (wraps(n))
            continue;
        throwing_form([=] { return ::operator new(n, al); });
        throwing_form([=] { return ::operator new[](n, al); });
    }
    int count = 0;
    CHECK(throws_bad_alloc([&] { return deep(20, &count); }));
    CHECK(count == 21);
}

void not_throwing(int, char **) {
    auto al = static_cast<align_val_t>(64);
    for (size_t size : {kTooLarge, size_t{1} << 63, ~size_t{0}, ~size_t{0} - 64}) {
        size_t n = HIDE(size);
        nothrow_form([=] { return ::operator new(n, nothrow); });
        nothrow_form([=] { return ::operator new[](n, nothrow); });
        if (wraps(n))
            continue;
        nothrow_form([=] { return ::operator new(n, al, nothrow); });
        nothrow_form([=] { return ::operator new[](n, al, nothrow); });
    }
}

// [new.delete.single]: the nothrow forms return null if the handler throws.
void not_throwing_handler_throws(int, char **) {
    auto al = static_cast<align_val_t>(64);
    size_t n = HIDE(kTooLarge);
    std::set_new_handler(throws_own);
    calls = 0;
    CHECK(::operator new(n, nothrow) == nullptr && calls == 1);
    CHECK(::operator new[](n, nothrow) == nullptr && calls == 2);
    CHECK(::operator new(n, al, nothrow) == nullptr && calls == 3);
    CHECK(::operator new[](n, al, nothrow) == nullptr && calls == 4);
}

// A handler that frees memory lets the allocation succeed.
void *reserve;

void frees_the_reserve() {
    ++calls;
    free(reserve);
    reserve = nullptr;
    std::set_new_handler(nullptr);
}

void handler_frees(int, char **) {
    // All address space this program gets is what it has plus 512 MiB.
    unsigned long now = status_kib("VmSize:");
    struct rlimit_pair { unsigned long soft, hard; } limit;
    limit.soft = limit.hard = (now + 512 * 1024) * 1024;
    CHECK(syscall(SYS_prlimit64, 0, 9 /* RLIMIT_AS */, &limit, nullptr) == 0);
    reserve = malloc(400 * MIB);
    CHECK(reserve);
    std::set_new_handler(frees_the_reserve);
    void *p = ::operator new(300 * MIB);
    CHECK(p && calls == 1 && !reserve);
    ::operator delete(p);
}

struct alignas(128) Wide {
    char bytes[384];
};

// What the compiler generates for ordinary code.
void everyday(int, char **) {
    for (int round = 0; round < 200; round++) {
        std::vector<std::unique_ptr<Wide>> wides;
        std::vector<std::string> strings;
        for (int i = 0; i < 100; i++) {
            wides.emplace_back(new Wide);
            CHECK(aligned_to(wides.back().get(), 128));
            strings.emplace_back(static_cast<size_t>(i * round), 'a');
        }
        auto *array = new Wide[7];
        CHECK(aligned_to(array, 128));
        delete[] array;
        auto *words = new std::string[20];
        words[3] = strings[50];
        delete[] words;
    }
}

const struct mode modes[] = {
    {"forms", forms},
    {"null_is_nothing", null_is_nothing},
    {"zero_is_unique", zero_is_unique},
    {"throwing", throwing},
    {"not_throwing", not_throwing},
    {"not_throwing_handler_throws", not_throwing_handler_throws},
    {"handler_frees", handler_frees},
    {"everyday", everyday},
    {nullptr, nullptr},
};

} // namespace

int main(int argc, char **argv) { return run_mode(modes, argc, argv); }
