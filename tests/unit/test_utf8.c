/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include "utf8.h"

#include <mqfs/meta.h>

#define BAD "\xef\xbf\xbd" /* U+FFFD */

static void tells_characters(void **state)
{
	(void)state;
	assert_int_equal(utf8_length("a", 1), 1);
	assert_int_equal(utf8_length("\0", 1), 1);
	assert_int_equal(utf8_length("\xc3\xa9", 2), 2);
	assert_int_equal(utf8_length("\xe2\x82\xac", 3), 3);
	assert_int_equal(utf8_length("\xf0\x9f\x90\x87", 4), 4);
	assert_int_equal(utf8_length("\xf4\x8f\xbf\xbf", 4), 4); /* U+10FFFF */
	assert_int_equal(utf8_length("", 0), 0);
}

static void refuses_what_is_ill_formed(void **state)
{
	static const char *const bad[] = {
	    "\x80",             /* continues nothing */
	    "\xc0\xaf",         /* overlong '/' */
	    "\xc1\xbf",         /* overlong */
	    "\xe0\x9f\xbf",     /* overlong */
	    "\xf0\x8f\xbf\xbf", /* overlong */
	    "\xed\xa0\x80",     /* a surrogate */
	    "\xf4\x90\x80\x80", /* past U+10FFFF */
	    "\xf5\x80\x80\x80",
	    "\xff",
	    "\xc3",
	    "\xe2\x82",
	    "\xe2\x28\xa1",
	    "\xf0\x9f\x90",
	    "\xf0\x9f\x90\x28",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(utf8_length(bad[i], strlen(bad[i])), 0);
		assert_false(utf8_is_valid(bad[i], strlen(bad[i])));
	}
	assert_int_equal(utf8_length("\xe2\x82\xac", 2), 0); /* cut */
}

static void tells_controls(void **state)
{
	(void)state;
	assert_true(utf8_is_control("\n", 1));
	assert_true(utf8_is_control("\0", 1));
	assert_true(utf8_is_control("\x7f", 1));
	assert_true(utf8_is_control("\xc2\x9b", 2)); /* CSI */
	assert_false(utf8_is_control("\xc2\xa0", 2));
	assert_false(utf8_is_control("\xc3\x80", 2));
	assert_false(utf8_is_control(" ", 1));
}

static void cuts_between_characters(void **state)
{
	(void)state;
	assert_int_equal(utf8_cut("abc", 3, 5), 3);
	assert_int_equal(utf8_cut("abc", 3, 2), 2);
	assert_int_equal(utf8_cut("a\xe2\x82\xac", 4, 3), 1);
	assert_int_equal(utf8_cut("a\xe2\x82\xac", 4, 2), 1);
	assert_int_equal(utf8_cut("a\xe2\x82\xac", 4, 4), 4);
	assert_int_equal(utf8_cut("a\xe2\x82\xac"
	                          "b",
	                          5, 4),
	                 4);
	assert_int_equal(utf8_cut("abc", 3, 0), 0);
	assert_int_equal(utf8_cut("\x80\x80\x80\x80\x80\x80\x80\x80", 8, 6), 6);
}

static void check_repair(const char *text, size_t bytes, const char *expected)
{
	char *repaired = mqfs_utf8_repair(text, bytes);

	assert_non_null(repaired);
	assert_string_equal(repaired, expected);
	free(repaired);
}

static void repairs(void **state)
{
	(void)state;
	check_repair(NULL, 0, "");
	check_repair("gr\xc3\xbc\xc3\x9f", 6, "gr\xc3\xbc\xc3\x9f");
	check_repair("a\0b", 3, "a" BAD "b");
	check_repair("\xff\xfe", 2, BAD BAD);
	check_repair("a\xe2\x82", 3, "a" BAD BAD);
	check_repair("\xed\xa0\x80", 3, BAD BAD BAD);
}

static void always_repairs(void **state)
{
	uint64_t seed = 1;
	char text[64];

	(void)state;
	for (int i = 0; i < 20000; i++) {
		size_t bytes = unit_random(&seed) % sizeof(text);
		char *repaired;

		for (size_t j = 0; j < bytes; j++)
			text[j] = (char)(unit_random(&seed) % 3 ? 0x80 | unit_random(&seed) : unit_random(&seed));
		repaired = mqfs_utf8_repair(text, bytes);
		assert_true(utf8_is_valid(repaired, strlen(repaired)));
		if (utf8_is_valid(text, bytes) && !memchr(text, '\0', bytes)) {
			assert_int_equal(strlen(repaired), bytes);
			assert_memory_equal(repaired, text, bytes);
		} else {
			assert_non_null(strstr(repaired, BAD));
		}
		free(repaired);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(tells_characters), cmocka_unit_test(refuses_what_is_ill_formed),
	    cmocka_unit_test(tells_controls),   cmocka_unit_test(cuts_between_characters),
	    cmocka_unit_test(repairs),          cmocka_unit_test(always_repairs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
