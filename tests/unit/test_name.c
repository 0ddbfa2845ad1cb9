/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include "utf8.h"

#include <mqfs/name.h>

#include <errno.h>
#include <stdio.h>

static void check_pair(const char *queue, const char *file)
{
	mqfs_name_t name;

	mqfs_name_encode(queue, name);
	assert_string_equal(name, file);
	assert_int_equal(mqfs_name_decode(file, name), 0);
	assert_string_equal(name, queue);
}

static void encodes_hostile_names(void **state)
{
	(void)state;
	check_pair("jobs", "jobs");
	check_pair("a/b", "a%2Fb");
	check_pair("/", "%2F");
	check_pair(".", "%2E");
	check_pair("..", "%2E.");
	check_pair(".mqfs", "%2Emqfs");
	check_pair("v1.2", "v1.2");
	check_pair("100%", "100%25");
	check_pair("%2F", "%252F");
	check_pair("a\nb\tc\x7f", "a%0Ab%09c%7F");
	check_pair("-rf *", "-rf *");
	check_pair("--help", "--help");
	check_pair("gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f");
	check_pair("\xff\xfe", "\xff\xfe");
	check_pair("$(reboot)`;&|'\"\\", "$(reboot)`;&|'\"\\");
}

static void decodes_only_names(void **state)
{
	/* The last row would be second names of queues that have another. */
	static const char *const bad[] = {".hidden", ".",     "..",  "",      "%",   "a%",    "a%2",  "a%2g", "%g0",
	                                  "%00",     "a%00b", "%-1", "a%2fb", "%41", "a%2Eb", "a\nb", "\x7f", "%FF"};
	mqfs_name_t queue = "untouched";

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(mqfs_name_decode(bad[i], queue), -EINVAL);
		assert_string_equal(queue, "untouched");
	}
}

static void bounds_what_it_decodes(void **state)
{
	char file[3 * MQFS_NAME_MAX + 4] = "";
	mqfs_name_t queue = "untouched";

	(void)state;
	memset(file, 'x', MQFS_NAME_MAX);
	assert_int_equal(mqfs_name_decode(file, queue), 0);
	assert_string_equal(queue, file);
	file[MQFS_NAME_MAX] = 'x';
	assert_int_equal(mqfs_name_decode(file, queue), -ENAMETOOLONG);
	for (int i = 0; i < MQFS_NAME_MAX / 3; i++)
		memcpy(file + 3 * i, "%2F", 3);
	file[MQFS_NAME_MAX / 3 * 3] = '\0';
	assert_int_equal(mqfs_name_decode(file, queue), 0);
	assert_int_equal(strlen(queue), MQFS_NAME_MAX / 3);
	memcpy(file + MQFS_NAME_MAX / 3 * 3, "%2F", 4); /* short enough for a queue, but no file name */
	assert_int_equal(mqfs_name_decode(file, queue), -ENAMETOOLONG);
}

static bool is_file_name(const char *file)
{
	if (file[0] == '.' || file[0] == '\0' || strchr(file, '/') || strlen(file) > MQFS_NAME_MAX)
		return false;
	for (; *file; file++)
		if ((unsigned char)*file < ' ' || *file == 0x7f)
			return false;
	return true;
}

/* Whatever a broker can call a queue is a file name, and comes back unless it had to be cut. */
static void encodes_any_name(void **state)
{
	uint64_t seed = 7;
	char queue[MQFS_NAME_MAX + 1];
	mqfs_name_t file, back;
	int cut = 0, whole = 0;

	(void)state;
	for (int i = 0; i < 20000; i++) {
		size_t bytes = 1 + unit_random(&seed) % MQFS_NAME_MAX;
		bool hard = unit_random(&seed) % 2;

		for (size_t j = 0; j < bytes; j++)
			queue[j] = (char)(1 + unit_random(&seed) % (hard ? 255 : 40));
		queue[bytes] = '\0';
		memset(file, 'Z', sizeof(file));
		mqfs_name_encode(queue, file);
		assert_true(is_file_name(file));
		if (strstr(file, "%~")) {
			cut++;
			assert_int_equal(mqfs_name_decode(file, back), -EINVAL);
			assert_int_equal(strspn(strstr(file, "%~") + 2, "0123456789abcdef"), 16);
		} else {
			whole++;
			assert_int_equal(mqfs_name_decode(file, back), 0);
			assert_string_equal(back, queue);
		}
	}
	assert_true(cut > 1000 && whole > 1000);
}

static void cuts_over_long_names_apart(void **state)
{
	char queue[MQFS_NAME_MAX + 1] = "";
	mqfs_name_t one, other;

	(void)state;
	memset(queue, 'q', MQFS_NAME_MAX);
	mqfs_name_encode(queue, one); /* as long as may be: kept */
	assert_string_equal(one, queue);

	queue[0] = '/'; /* two bytes too long */
	mqfs_name_encode(queue, one);
	assert_int_equal(strlen(one), MQFS_NAME_MAX);
	assert_memory_equal(one, "%2Fqqq", 6);
	assert_memory_equal(one + MQFS_NAME_MAX - 18, "%~", 2);
	queue[MQFS_NAME_MAX - 1] = 'r'; /* far behind the cut */
	mqfs_name_encode(queue, other);
	assert_memory_equal(one, other, MQFS_NAME_MAX - 16);
	assert_string_not_equal(one, other);
	queue[MQFS_NAME_MAX - 1] = 'q';
	mqfs_name_encode(queue, other);
	assert_string_equal(one, other);
}

static void cuts_between_characters(void **state)
{
	char queue[MQFS_NAME_MAX + 1] = "/";
	mqfs_name_t file;

	(void)state;
	for (int i = 0; i < 84; i++)
		memcpy(queue + 1 + 3 * i, "\xe2\x82\xac", 4); /* 253 bytes, 255 as written: kept */
	check_pair(queue, strcat(strcpy(file, "%2F"), queue + 1));
	memcpy(queue + 253, "//", 3);
	mqfs_name_encode(queue, file);
	assert_non_null(strstr(file, "%~"));
	assert_true(utf8_is_valid(file, strlen(file)));
}

static void knows_reserved_names(void **state)
{
	(void)state;
	assert_true(mqfs_name_is_reserved("mqfs.delay.jobs.1"));
	assert_true(mqfs_name_is_reserved("mqfs."));
	assert_true(mqfs_name_is_reserved("amq.gen-x"));
	assert_false(mqfs_name_is_reserved("mqfs"));
	assert_false(mqfs_name_is_reserved("amqp"));
	assert_false(mqfs_name_is_reserved("my.amq."));
	assert_false(mqfs_name_is_reserved("jobs.dead"));
}

static void names_helper_queues(void **state)
{
	mqfs_name_t name;

	(void)state;
	mqfs_name_dead_queue("jobs", name);
	assert_string_equal(name, "jobs.dead");
	mqfs_name_delay_queue("jobs", 1000, name);
	assert_string_equal(name, "mqfs.delay.jobs.1");
	mqfs_name_delay_queue("jobs", 4096000, name);
	assert_string_equal(name, "mqfs.delay.jobs.4096");
	mqfs_name_delay_queue("jobs", 500, name);
	assert_string_equal(name, "mqfs.delay.jobs.500ms");
	mqfs_name_delay_queue("a/b", 125, name);
	assert_string_equal(name, "mqfs.delay.a/b.125ms");
}

static void helper_names_are_distinct_and_fit(void **state)
{
	char queue[MQFS_NAME_MAX + 1] = "", twin[MQFS_NAME_MAX + 1];
	mqfs_name_t names[5];

	(void)state;
	memset(queue, 'q', MQFS_QUEUE_NAME_MKDIR_MAX); /* what mkdir makes keeps readable helpers */
	mqfs_name_dead_queue(queue, names[0]);
	assert_string_equal(names[0] + MQFS_QUEUE_NAME_MKDIR_MAX, ".dead");
	mqfs_name_delay_queue(queue, 4096000, names[0]);
	assert_string_equal(names[0] + strlen(names[0]) - 6, "q.4096");

	memset(queue, 'q', MQFS_NAME_MAX);
	memcpy(twin, queue, sizeof(queue));
	twin[MQFS_NAME_MAX - 1] = 'r';
	mqfs_name_dead_queue(queue, names[0]);
	mqfs_name_dead_queue(twin, names[1]);
	mqfs_name_delay_queue(queue, 1000, names[2]);
	mqfs_name_delay_queue(queue, 2000, names[3]);
	mqfs_name_delay_queue(twin, 1000, names[4]);
	for (int i = 0; i < 5; i++) {
		assert_int_equal(strlen(names[i]), MQFS_NAME_MAX);
		for (int j = 0; j < i; j++)
			assert_string_not_equal(names[i], names[j]);
		assert_int_equal(mqfs_name_is_reserved(names[i]), i >= 2);
	}
}

static void check_message(int64_t stamp_us, const char *filename, const char *id, const char *expected)
{
	struct mqfs_message *message = unit_message("body");
	mqfs_name_t name;

	if (filename)
		mqfs_headers_set_string(&message->headers, "mqfs-filename", filename);
	mqfs_message_set_string(&message->message_id, id);
	mqfs_name_message(stamp_us, message, name);
	assert_string_equal(name, expected);
	mqfs_message_free(message);
}

#define STAMP INT64_C(1769860800000042)

static void names_messages(void **state)
{
	(void)state;
	check_message(STAMP, "a.mp4", "id", "1769860800.000042-a.mp4");
	check_message(STAMP, NULL, "id", "1769860800.000042-id");
	check_message(STAMP, "", "id", "1769860800.000042-id");
	check_message(STAMP, NULL, "", "1769860800.000042-message");
	check_message(STAMP, NULL, NULL, "1769860800.000042-message");
	check_message(STAMP, "../../etc/passwd", NULL, "1769860800.000042-..%2F..%2Fetc%2Fpasswd");
	check_message(STAMP, "a\nb\033[2J", NULL, "1769860800.000042-a%0Ab%1B[2J");
	check_message(STAMP,
	              "\xc2\x9b"
	              "2J",
	              NULL, "1769860800.000042-%C2%9B2J");
	check_message(STAMP,
	              "\xff\xe2\x82"
	              "x\xc3\xbc",
	              NULL, "1769860800.000042-%FF%E2%82x\xc3\xbc");
	check_message(STAMP, "-rf 100%", NULL, "1769860800.000042--rf 100%");
	check_message(-1, "a", NULL, "0.000000-a");
}

static void names_a_file_name_with_nul(void **state)
{
	struct mqfs_message *message = unit_message("");
	mqfs_name_t name;

	(void)state;
	mqfs_headers_set_bytes(&message->headers, "mqfs-filename", "a\0b", 3);
	mqfs_name_message(STAMP, message, name);
	assert_string_equal(name, "1769860800.000042-a%00b");
	mqfs_message_free(message);
}

static void message_names_fit(void **state)
{
	uint64_t seed = 3;
	struct mqfs_message *message = unit_message("");
	mqfs_name_t name;
	char title[255];

	(void)state;
	for (int i = 0; i < 20000; i++) {
		size_t bytes = unit_random(&seed) % sizeof(title);

		for (size_t j = 0; j < bytes; j++)
			title[j] = (char)(unit_random(&seed) % 2 ? unit_random(&seed) : 'a');
		mqfs_headers_set_bytes(&message->headers, "mqfs-filename", title, bytes);
		mqfs_name_message(STAMP, message, name);
		assert_true(strlen(name) <= MQFS_MESSAGE_NAME_MAX - 4);
		assert_true(is_file_name(name));
		assert_true(utf8_is_valid(name, strlen(name)));
	}
	memset(title, 'x', sizeof(title));
	mqfs_headers_set_bytes(&message->headers, "mqfs-filename", title, sizeof(title));
	mqfs_name_message(STAMP, message, name);
	assert_int_equal(strlen(name), MQFS_MESSAGE_NAME_MAX - 4); /* nor is more cut than needs be */
	memcpy(title + 176, "\xe2\x82\xac", 3);                    /* 18 + 176 + 3 = 197 */
	mqfs_headers_set_bytes(&message->headers, "mqfs-filename", title, sizeof(title));
	mqfs_name_message(STAMP, message, name);
	assert_int_equal(strlen(name), 194);
	mqfs_message_free(message);
}

static void message_names_sort_by_stamp(void **state)
{
	struct mqfs_message *message = unit_message("");
	mqfs_name_t one, other;

	(void)state;
	for (int64_t stamp = STAMP; stamp < STAMP + 3000000; stamp += 99999) {
		mqfs_name_message(stamp, message, one);
		mqfs_name_message(stamp + 1, message, other);
		assert_true(strcmp(one, other) < 0);
	}
	mqfs_message_free(message);
}

static void kept_names_come_from_the_message(void **state)
{
	struct mqfs_message *message = unit_message("body");
	mqfs_name_t name, again;

	(void)state;
	mqfs_name_kept_message(message, name); /* printf body | sha256sum */
	assert_string_equal(name, "0.000000-230d8358dc8e8890");
	mqfs_name_kept_message(message, again);
	assert_string_equal(name, again);

	message->timestamp = 1769860800;
	mqfs_message_set_string(&message->message_id, "id");
	mqfs_name_kept_message(message, name);
	assert_string_equal(name, "1769860800.000000-id");
	mqfs_headers_set_integer(&message->headers, "mqfs-published", STAMP);
	mqfs_headers_set_string(&message->headers, "mqfs-filename", "a/b");
	mqfs_name_kept_message(message, name);
	assert_string_equal(name, "1769860800.000042-a%2Fb");
	mqfs_message_free(message);
}

static void kept_names_survive_strange_times(void **state)
{
	struct mqfs_message *message = unit_message("body");
	mqfs_name_t name;

	(void)state;
	mqfs_message_set_string(&message->message_id, "id");
	message->timestamp = UINT64_MAX;
	mqfs_name_kept_message(message, name);
	assert_string_equal(name, "0.000000-id");
	mqfs_headers_set_integer(&message->headers, "mqfs-published", -5);
	mqfs_name_kept_message(message, name);
	assert_string_equal(name, "0.000000-id");
	mqfs_headers_set_integer(&message->headers, "mqfs-published", INT64_MAX);
	mqfs_name_kept_message(message, name);
	assert_string_equal(name, "9223372036854.775807-id");
	mqfs_message_free(message);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(encodes_hostile_names),
	    cmocka_unit_test(decodes_only_names),
	    cmocka_unit_test(bounds_what_it_decodes),
	    cmocka_unit_test(encodes_any_name),
	    cmocka_unit_test(cuts_over_long_names_apart),
	    cmocka_unit_test(cuts_between_characters),
	    cmocka_unit_test(knows_reserved_names),
	    cmocka_unit_test(names_helper_queues),
	    cmocka_unit_test(helper_names_are_distinct_and_fit),
	    cmocka_unit_test(names_messages),
	    cmocka_unit_test(names_a_file_name_with_nul),
	    cmocka_unit_test(message_names_fit),
	    cmocka_unit_test(message_names_sort_by_stamp),
	    cmocka_unit_test(kept_names_come_from_the_message),
	    cmocka_unit_test(kept_names_survive_strange_times),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
