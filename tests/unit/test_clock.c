/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <mqfs/clock.h>

#include <time.h>

static void writes_rfc3339(void **state)
{
	char text[MQFS_RFC3339_BYTES];

	(void)state;
	assert_string_equal(mqfs_clock_rfc3339(0, text), "1970-01-01T00:00:00.000000Z");
	assert_string_equal(mqfs_clock_rfc3339(INT64_C(1769860800000001), text), "2026-01-31T12:00:00.000001Z");
	assert_string_equal(mqfs_clock_rfc3339(INT64_C(951827696999999), text), "2000-02-29T12:34:56.999999Z");
	assert_ptr_equal(mqfs_clock_rfc3339(1, text), text);
}

static void ignores_the_time_zone(void **state)
{
	char text[MQFS_RFC3339_BYTES];

	(void)state;
	setenv("TZ", "Asia/Tokyo", 1);
	tzset();
	assert_string_equal(mqfs_clock_rfc3339(0, text), "1970-01-01T00:00:00.000000Z");
}

static void bounds_what_strangers_claim(void **state)
{
	char text[MQFS_RFC3339_BYTES];

	(void)state;
	assert_string_equal(mqfs_clock_rfc3339(INT64_MAX, text), "9999-12-31T23:59:59.999999Z");
	assert_string_equal(mqfs_clock_rfc3339(INT64_MIN, text), "1970-01-01T00:00:00.000000Z");
}

static void clocks_agree_with_the_system(void **state)
{
	int64_t monotonic = mqfs_clock_monotonic_ms();
	int64_t boottime = mqfs_clock_boottime_ms();
	int64_t real_s = mqfs_clock_realtime_us() / 1000000;
	struct timespec pause = {.tv_nsec = 20000000};
	struct timespec now;

	(void)state;
	assert_true(llabs((long long)time(NULL) - real_s) <= 1);
	assert_true(boottime >= monotonic); /* it counts suspend too */
	nanosleep(&pause, NULL);
	assert_true(mqfs_clock_monotonic_ms() >= monotonic + 20);
	assert_true(mqfs_clock_boottime_ms() >= boottime + 20);
	clock_gettime(CLOCK_MONOTONIC, &now);
	assert_true(llabs(now.tv_sec * 1000LL + now.tv_nsec / 1000000 - mqfs_clock_monotonic_ms()) < 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(writes_rfc3339),
	    cmocka_unit_test(ignores_the_time_zone),
	    cmocka_unit_test(bounds_what_strangers_claim),
	    cmocka_unit_test(clocks_agree_with_the_system),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
