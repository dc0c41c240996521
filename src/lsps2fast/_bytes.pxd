# Several bytes of a text at once; in C, and inlined, in `swar.h`.

cdef extern from "swar.h":
    bint same "lsps2fast_same"(const unsigned char* text, const char* literal, size_t size) noexcept nogil
    bint take "lsps2fast_take"(
        const unsigned char* text, Py_ssize_t* at, Py_ssize_t end, const char* literal, Py_ssize_t size
    ) noexcept nogil
    bint is_hex_64 "lsps2fast_is_hex_64"(const unsigned char* text) noexcept nogil
    void unhex "lsps2fast_unhex"(const unsigned char* text, size_t size, unsigned char* out) noexcept nogil
    bint is_printable "lsps2fast_is_printable"(const unsigned char* text, size_t size) noexcept nogil
    int count_digits "lsps2fast_digits"(const unsigned char* text, unsigned long long* unused) noexcept nogil
    int leading_digits "lsps2fast_number"(const unsigned char* text, unsigned long long* value) noexcept nogil
