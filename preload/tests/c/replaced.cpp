// A program with its own operator new and delete, of the forms that the others are to call ([new.delete]). Its blocks
// are none of malloc's: each begins behind a header.
#include "check.h"
#include <new>

namespace {

constexpr size_t kHeader = 64;
int news, deletes;

void *with_header(size_t size) {
    char *start = static_cast<char *>(malloc(size + kHeader));
    CHECK(start);
    memset(start, 0x5a, kHeader);
    news++;
    return start + kHeader;
}

void without_header(void *block) {
    char *start = static_cast<char *>(block) - kHeader;
    for (size_t i = 0; i < kHeader; i++)
        CHECK(start[i] == 0x5a);
    deletes++;
    free(start);
}

} // namespace

void *operator new(size_t size) { return with_header(size); }
void operator delete(void *block) noexcept { without_header(block); }
void *operator new(size_t size, std::align_val_t) { return with_header(size); }
void operator delete(void *block, std::align_val_t) noexcept { without_header(block); }

int main() {
    const size_t n = 100;
    const auto al = std::align_val_t{64};
    const auto &nothrow = std::nothrow;
    void *plain[] = {
        ::operator new(n), ::operator new[](n), ::operator new(n, nothrow), ::operator new[](n, nothrow), ::operator new(n),
        ::operator new(n),
    };
    ::operator delete(plain[0], n);
    ::operator delete[](plain[1]);
    ::operator delete[](plain[2], n);
    ::operator delete(plain[3], nothrow);
    ::operator delete[](plain[4], nothrow);
    ::operator delete(plain[5]);
    CHECK(news == 6 && deletes == 6);
    void *aligned[] = {
        ::operator new(n, al), ::operator new[](n, al), ::operator new(n, al, nothrow), ::operator new[](n, al, nothrow),
        ::operator new(n, al), ::operator new(n, al),
    };
    ::operator delete(aligned[0], n, al);
    ::operator delete[](aligned[1], al);
    ::operator delete[](aligned[2], n, al);
    ::operator delete(aligned[3], al, nothrow);
    ::operator delete[](aligned[4], al, nothrow);
    ::operator delete(aligned[5], al);
    CHECK(news == 12 && deletes == 12);
    say("done", 1);
}
