/* Several bytes of a text at once, in plain C: no intrinsics, so any compiler builds it. Where eight bytes can be looked
   at as one little-endian number, numbers are read that way; elsewhere one digit after the other gives the same. */
#ifndef LSPS2FAST_SWAR_H
#define LSPS2FAST_SWAR_H
#include <string.h>
#if defined(__GNUC__)
#define LSPS2FAST_INLINE static inline __attribute__((always_inline))
#else
#define LSPS2FAST_INLINE static inline
#endif
/* In C, so that the size is always a constant where it is used: a few instructions instead of two calls. */
LSPS2FAST_INLINE int lsps2fast_same(const unsigned char *text, const char *literal, size_t size) {
    return memcmp(text, literal, size) == 0;
}
LSPS2FAST_INLINE int lsps2fast_take(const unsigned char *text, Py_ssize_t *at, Py_ssize_t end,
                                    const char *literal, Py_ssize_t size) {
    if (end - *at < size || memcmp(text + *at, literal, (size_t)size) != 0) return 0;
    *at += size;
    return 1;
}
/* Whether 64 bytes are lower-case hex digits. No branch within: digits of a hash are dice to a predictor. */
LSPS2FAST_INLINE int lsps2fast_is_hex_64(const unsigned char *text) {
    const unsigned long long ones = ~0ULL / 255;
    unsigned long long odd = 0, word, digit, letter;
    for (int at = 0; at < 64; at += 8) {  /* the high bit of each byte says what is wrong with it */
        memcpy(&word, text + at, 8);
        digit = word ^ 0x30 * ones;  /* below 10 */
        letter = word ^ 0x60 * ones;  /* 1 to 6 */
        odd |= word | ((digit + 0x76 * ones) & (~(letter + 0x7F * ones) | (letter + 0x79 * ones)));
    }
    return !(odd & ones << 7);
}
LSPS2FAST_INLINE void lsps2fast_unhex(const unsigned char *text, size_t size, unsigned char *out) {
    for (size_t at = 0; at < size / 2; at++) {
        unsigned char high = text[2 * at], low = text[2 * at + 1];
        out[at] = (unsigned char)(((high & 15) + 9 * (high >> 6)) << 4 | ((low & 15) + 9 * (low >> 6)));
    }
}
/* Whether all are printable ASCII (32 to 126). */
LSPS2FAST_INLINE int lsps2fast_is_printable(const unsigned char *text, size_t size) {
    const unsigned long long ones = ~0ULL / 255, high = ones << 7;
    unsigned long long odd = 0, word;
    while (size >= 8) {
        memcpy(&word, text, 8);
        odd |= word | (word + ones) | ~(word + 96 * ones);  /* >= 128; 127; below 32, where nothing is >= 128 */
        text += 8;
        size -= 8;
    }
    odd &= high;
    for (; size > 0; size--) odd |= (unsigned char)(*text++ - 32) > 94;
    return !odd;
}
#if defined(__GNUC__) && defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
/* How many of eight readable bytes are digits, up to the first that is none; `word` gets their values. */
LSPS2FAST_INLINE int lsps2fast_digits(const unsigned char *text, unsigned long long *word) {
    const unsigned long long ones = ~0ULL / 255;
    unsigned long long odd;
    memcpy(word, text, 8);
    *word ^= 0x30 * ones;
    odd = ((*word + 0x76 * ones) | *word) & (ones << 7);  /* the lowest mark is right; a carry only runs upwards */
    return odd ? __builtin_ctzll(odd) >> 3 : 8;
}
LSPS2FAST_INLINE int lsps2fast_number(const unsigned char *text, unsigned long long *value) {
    unsigned long long word;
    int count = lsps2fast_digits(text, &word);
    if (count == 0) return 0;
    word <<= 64 - 8 * count;  /* zeros in front */
    word = word * 10 + (word >> 8);
    *value = ((word & 0x000000FF000000FFULL) * 0x000F424000000064ULL
              + ((word >> 16 & 0x000000FF000000FFULL) * 0x0000271000000001ULL)) >> 32;
    return count;
}
#else
LSPS2FAST_INLINE int lsps2fast_number(const unsigned char *text, unsigned long long *value) {
    int count = 0;
    for (*value = 0; count < 8 && text[count] >= '0' && text[count] <= '9'; count++)
        *value = *value * 10 + (text[count] - '0');
    return count;
}
#define lsps2fast_digits lsps2fast_number
#endif
#endif
