/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <mqfs/retry.h>

static struct mqfs_settings settings;

static int setup(void **state)
{
	(void)state;
	mqfs_settings_init(&settings);
	return 0;
}

static int64_t delay(int64_t attempts, uint64_t random)
{
	struct mqfs_retry_decision decision = mqfs_retry_decide(&settings, attempts, INT64_MAX, random);

	assert_false(decision.dead);
	return decision.delay_ms;
}

static void is_dead_after_the_last_attempt(void **state)
{
	(void)state;
	assert_false(mqfs_retry_decide(&settings, 7, 8, 0).dead);
	assert_true(mqfs_retry_decide(&settings, 8, 8, 0).dead);
	assert_true(mqfs_retry_decide(&settings, 9, 8, 0).dead);
	assert_true(mqfs_retry_decide(&settings, 1, 1, 0).dead);
	assert_false(mqfs_retry_decide(&settings, 8, 9, 0).dead); /* granted */
	assert_true(mqfs_retry_decide(&settings, INT64_MAX, 8, 0).dead);
}

static void waits_longer_each_time(void **state)
{
	int64_t expected = 1000;

	(void)state;
	for (int64_t n = 1; n <= 12; n++, expected *= 2) {
		assert_int_equal(delay(n, 0), expected * 3 / 4);
		assert_int_equal(delay(n, UINT64_C(1) << 63), expected);
		assert_in_range(delay(n, UINT64_MAX), expected * 5 / 4 - 1, expected * 5 / 4);
	}
}

static void jitters_within_its_bounds(void **state)
{
	uint64_t seed = 11;
	int64_t low = INT64_MAX, high = 0, sum = 0;

	(void)state;
	settings.backoff_base_ms = 100000;
	for (int i = 0; i < 100000; i++) {
		int64_t ms = delay(1, unit_random(&seed));

		assert_in_range(ms, 75000, 125000);
		low = ms < low ? ms : low;
		high = ms > high ? ms : high;
		sum += ms;
	}
	assert_true(low < 75100 && high > 124900); /* the whole width is used */
	assert_in_range(sum / 100000, 99700, 100300);
}

static void is_bounded_by_the_maximum(void **state)
{
	(void)state;
	for (int64_t n = 13; n < 2000; n++) {
		assert_int_equal(delay(n, UINT64_C(1) << 63), settings.backoff_max_ms);
		assert_in_range(delay(n, UINT64_MAX), 0, settings.backoff_max_ms * 5 / 4);
	}
}

static void never_overflows(void **state)
{
	(void)state;
	settings.backoff_base_ms = INT64_C(86400000);
	settings.backoff_factor = 100;
	settings.backoff_max_ms = INT64_C(20) * 86400000;
	for (int64_t n = 2; n < INT64_MAX / 2; n *= 2) {
		assert_int_equal(delay(n, UINT64_C(1) << 63), settings.backoff_max_ms);
		assert_in_range(delay(n, UINT64_MAX), settings.backoff_max_ms, settings.backoff_max_ms * 5 / 4);
	}
}

static void may_stay_the_same(void **state)
{
	(void)state;
	settings.backoff_factor = 1;
	for (int64_t n = 1; n < 1000; n++)
		assert_int_equal(delay(n, UINT64_C(1) << 63), 1000);
}

static void enumerates_levels(void **state)
{
	unsigned count = 0;
	int64_t last = 0;

	(void)state;
	for (; mqfs_retry_level_at(count) != 0; count++) {
		if (count > 0)
			assert_int_equal(mqfs_retry_level_at(count), 2 * last);
		last = mqfs_retry_level_at(count);
	}
	assert_int_equal(count, 25);
	assert_int_equal(mqfs_retry_level_at(0), 125);
	assert_int_equal(mqfs_retry_level_at(3), 1000);
	assert_int_equal(last, INT64_C(2097152000));
	assert_true(last <= UINT32_MAX); /* RabbitMQ's bound of a TTL */
	assert_int_equal(mqfs_retry_level_at(25), 0);
	assert_int_equal(mqfs_retry_level_at(UINT32_MAX), 0);
}

static bool is_level(int64_t level)
{
	for (unsigned i = 0; mqfs_retry_level_at(i); i++)
		if (mqfs_retry_level_at(i) == level)
			return true;
	return false;
}

static void check_level(int64_t ms)
{
	int64_t level = mqfs_retry_level(ms, false), up = mqfs_retry_level(ms, true);

	assert_true(is_level(level) && is_level(up));
	assert_true(level * 2 >= ms && level <= ms * 2);
	assert_true(up >= ms && up < ms * 2);
	for (unsigned i = 0; mqfs_retry_level_at(i); i++) { /* none is nearer; none shorter is long enough */
		assert_true(llabs(level - ms) <= llabs(mqfs_retry_level_at(i) - ms));
		assert_true(mqfs_retry_level_at(i) >= up || mqfs_retry_level_at(i) < ms);
	}
}

static void gives_the_nearest_level(void **state)
{
	uint64_t seed = 5;

	(void)state;
	for (int64_t ms = 125; ms < 20000; ms++)
		check_level(ms);
	for (int i = 0; i < 20000; i++)
		check_level(125 + (int64_t)(unit_random(&seed) % (INT64_C(2097152000) - 125)));
	check_level(INT64_C(2097152000));
	assert_int_equal(mqfs_retry_level(1400, false), 1000);
	assert_int_equal(mqfs_retry_level(1600, false), 2000);
	assert_int_equal(mqfs_retry_level(1001, true), 2000);
	assert_int_equal(mqfs_retry_level(1000, true), 1000);
}

/* R1: what people are promised about the wait, jitter and level together. */
static void waits_half_to_twice_the_nominal_time(void **state)
{
	uint64_t seed = 13;

	(void)state;
	for (int i = 0; i < 200000; i++) {
		int64_t level;

		settings.backoff_base_ms = 250 + (int64_t)(unit_random(&seed) % 100000);
		level = mqfs_retry_level(delay(1, unit_random(&seed)), false);
		assert_true(2 * level >= settings.backoff_base_ms && level <= 2 * settings.backoff_base_ms);
	}
}

static void levels_end(void **state)
{
	(void)state;
	for (int up = 0; up < 2; up++) {
		assert_int_equal(mqfs_retry_level(INT64_MIN, up), 125);
		assert_int_equal(mqfs_retry_level(-1, up), 125);
		assert_int_equal(mqfs_retry_level(0, up), 125);
		assert_int_equal(mqfs_retry_level(1, up), 125);
		assert_int_equal(mqfs_retry_level(INT64_C(2097152001), up), INT64_C(2097152000));
		assert_int_equal(mqfs_retry_level(INT64_MAX, up), INT64_C(2097152000));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(is_dead_after_the_last_attempt, setup),
	    cmocka_unit_test_setup(waits_longer_each_time, setup),
	    cmocka_unit_test_setup(jitters_within_its_bounds, setup),
	    cmocka_unit_test_setup(is_bounded_by_the_maximum, setup),
	    cmocka_unit_test_setup(never_overflows, setup),
	    cmocka_unit_test_setup(may_stay_the_same, setup),
	    cmocka_unit_test(enumerates_levels),
	    cmocka_unit_test(gives_the_nearest_level),
	    cmocka_unit_test_setup(waits_half_to_twice_the_nominal_time, setup),
	    cmocka_unit_test(levels_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
