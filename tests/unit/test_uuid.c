/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <mqfs/clock.h>

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 4
#define EACH 20000

typedef char uuid_text[MQFS_UUID_BYTES];

static void has_the_form(void **state)
{
	char id[MQFS_UUID_BYTES];

	(void)state;
	for (int n = 0; n < 1000; n++) {
		assert_ptr_equal(mqfs_uuid(id), id);
		assert_int_equal(strlen(id), 36);
		for (int i = 0; i < 36; i++) {
			if (i == 8 || i == 13 || i == 18 || i == 23)
				assert_int_equal(id[i], '-');
			else
				assert_non_null(strchr("0123456789abcdef", id[i]));
		}
		assert_int_equal(id[14], '7');           /* version */
		assert_non_null(strchr("89ab", id[19])); /* variant 10 */
	}
}

static uint64_t milliseconds(const char *id)
{
	char digits[13];

	memcpy(digits, id, 8);
	memcpy(digits + 8, id + 9, 4);
	digits[12] = '\0';
	return strtoull(digits, NULL, 16);
}

static void tells_the_time(void **state)
{
	int64_t before = mqfs_clock_realtime_us() / 1000;
	char id[MQFS_UUID_BYTES];
	int64_t made;

	(void)state;
	made = (int64_t)milliseconds(mqfs_uuid(id));
	assert_true(made >= before);
	assert_true(made <= mqfs_clock_realtime_us() / 1000 + 1000);
}

static void grows(void **state)
{
	char last[MQFS_UUID_BYTES], id[MQFS_UUID_BYTES];

	(void)state;
	mqfs_uuid(last);
	for (int n = 0; n < 200000; n++) { /* many more than 4096 in some millisecond */
		mqfs_uuid(id);
		assert_true(strcmp(last, id) < 0);
		memcpy(last, id, sizeof(id));
	}
}

static void is_random(void **state)
{
	unsigned ones[62] = {0};
	char id[MQFS_UUID_BYTES];

	(void)state;
	for (int n = 0; n < 10000; n++) {
		uint64_t low;

		mqfs_uuid(id);
		low = strtoull(id + 24, NULL, 16) |
		      (strtoull((char[]){id[19], id[20], id[21], id[22], 0}, NULL, 16) << 48);
		for (int bit = 0; bit < 62; bit++)
			ones[bit] += low >> bit & 1;
	}
	for (int bit = 0; bit < 62; bit++) /* ten standard deviations */
		assert_in_range(ones[bit], 4500, 5500);
}

static void *make_many(void *arg)
{
	uuid_text *ids = arg;

	for (int i = 0; i < EACH; i++)
		mqfs_uuid(ids[i]);
	return NULL;
}

static int compare(const void *a, const void *b)
{
	return strcmp(a, b);
}

static void is_unique_among_threads(void **state)
{
	static uuid_text ids[THREADS * EACH];
	pthread_t threads[THREADS];

	(void)state;
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, make_many, ids + i * EACH), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < THREADS; i++)
		for (int j = 1; j < EACH; j++)
			assert_true(strcmp(ids[i * EACH + j - 1], ids[i * EACH + j]) < 0);
	qsort(ids, THREADS * EACH, sizeof(ids[0]), compare);
	for (int i = 1; i < THREADS * EACH; i++)
		assert_string_not_equal(ids[i - 1], ids[i]);
}

static void is_not_shared_with_a_child(void **state)
{
	char id[MQFS_UUID_BYTES], childs[MQFS_UUID_BYTES];
	int ends[2], status;
	pid_t pid;

	(void)state;
	mqfs_uuid(id);
	assert_int_equal(pipe(ends), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		mqfs_uuid(id);
		_exit(write(ends[1], id, sizeof(id)) != sizeof(id));
	}
	mqfs_uuid(id);
	assert_int_equal(read(ends[0], childs, sizeof(childs)), sizeof(childs));
	assert_string_not_equal(id + 19, childs + 19); /* the random part alone */
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(ends[0]);
	close(ends[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(has_the_form),
	    cmocka_unit_test(tells_the_time),
	    cmocka_unit_test(grows),
	    cmocka_unit_test(is_random),
	    cmocka_unit_test(is_unique_among_threads),
	    cmocka_unit_test(is_not_shared_with_a_child),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
