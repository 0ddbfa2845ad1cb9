/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <mqfs/settings.h>

#include <errno.h>

static struct mqfs_settings settings;

static int setup(void **state)
{
	(void)state;
	mqfs_settings_init(&settings);
	return 0;
}

/* What a new mount has, as people read it. */
static const struct {
	const char *name, *value;
} defaults[] = {
    {"priority", "0"},
    {"max-body", "1M"},
    {"publish-timeout", "10s"},
    {"rename-timeout", "1s"},
    {"max-drafts", "10000"},
    {"prefetch", "16"},
    {"claim-timeout", "25min"},
    {"pending-timeout", "4min"},
    {"idle-release", "1min"},
    {"consumer-timeout", "30min"},
    {"ack-on", "rm"},
    {"take-on", "open"},
    {"max-attempts", "8"},
    {"backoff-base", "1s"},
    {"backoff-factor", "2"},
    {"backoff-max", "1h"},
    {"look-max", "1000"},
    {"type", "classic"},
    {"max-priority", "10"},
    {"lazy", "no"},
    {"message-ttl", "0"},
    {"max-length", "0"},
    {"overflow", "reject-publish"},
    {"dead-letter", "no"},
    {"delete-unsafe", "no"},
    {"connect-timeout", "10s"},
    {"heartbeat", "10s"},
    {"lease-timeout", "10s"},
    {"workers", "4"},
    {"outbox", "yes"},
    {"outbox-max", "256M"},
    {"settled-ttl", "24h"},
    {"drain-timeout", "30s"},
};

#define DEFAULTS (sizeof(defaults) / sizeof(defaults[0]))

static void has_defaults(void **state)
{
	char text[64];

	(void)state;
	for (size_t i = 0; i < DEFAULTS; i++) {
		assert_int_equal(mqfs_settings_get(&settings, defaults[i].name, text, sizeof(text)),
		                 strlen(defaults[i].value));
		assert_string_equal(text, defaults[i].value);
	}
	assert_null(mqfs_setting_at(DEFAULTS));
	assert_int_equal(settings.max_body_bytes, 1048576);
	assert_int_equal(settings.claim_timeout_ms, 1500000);
	assert_true(settings.backoff_factor == 2.0);
	assert_int_equal(settings.overflow, MQFS_OVERFLOW_REJECT_PUBLISH);
}

static void describes_every_setting(void **state)
{
	const struct mqfs_setting *setting;

	(void)state;
	for (size_t i = 0; (setting = mqfs_setting_at(i)); i++) {
		assert_ptr_equal(mqfs_setting_find(setting->name), setting); /* names are unique */
		assert_true(strlen(setting->help) > 5);
		assert_null(strchr(setting->help, '\n'));
		assert_int_equal(strspn(setting->name, "abcdefghijklmnopqrstuvwxyz-"), strlen(setting->name));
		/* of the mount or of a queue; what mkdir uses can't change under an existing queue */
		assert_true(!(setting->scope & MQFS_SETTING_MOUNT) != !(setting->scope & MQFS_SETTING_QUEUE));
		assert_false((setting->scope & MQFS_SETTING_DECLARE) && (setting->scope & MQFS_SETTING_RUNTIME));
	}
	assert_null(mqfs_setting_at(SIZE_MAX));
	assert_null(mqfs_setting_find("none"));
	assert_null(mqfs_setting_find(""));
	assert_true(mqfs_setting_find("prefetch")->scope & MQFS_SETTING_RUNTIME);
	assert_true(mqfs_setting_find("type")->scope & MQFS_SETTING_DECLARE);
	assert_true(mqfs_setting_find("workers")->scope & MQFS_SETTING_MOUNT);
}

static void set(const char *name, const char *value, const char *expected)
{
	char text[64];

	assert_int_equal(mqfs_settings_set(&settings, name, value, NULL), 0);
	assert_true(mqfs_settings_get(&settings, name, text, sizeof(text)) > 0);
	assert_string_equal(text, expected);
}

static void takes_times(void **state)
{
	(void)state;
	set("claim-timeout", "90s", "90s");
	assert_int_equal(settings.claim_timeout_ms, 90000);
	set("claim-timeout", "120", "2min"); /* a bare number is seconds */
	assert_int_equal(settings.claim_timeout_ms, 120000);
	set("claim-timeout", "1500ms", "1500ms");
	assert_int_equal(settings.claim_timeout_ms, 1500);
	set("claim-timeout", "2h", "2h");
	assert_int_equal(settings.claim_timeout_ms, 7200000);
	set("claim-timeout", " \t 7 min\n", "7min");
	set("claim-timeout", "1.5s", "1500ms");
	set("claim-timeout", "1.001s", "1001ms");
	set("claim-timeout", "0.5h", "30min");
	set("claim-timeout", "720h", "720h");
	set("message-ttl", "0", "0");
	set("heartbeat", "7s", "7s");
}

static void takes_sizes(void **state)
{
	(void)state;
	set("max-body", "64K", "64K");
	assert_int_equal(settings.max_body_bytes, 65536);
	set("max-body", "1025", "1025");
	set("max-body", "2 M", "2M");
	set("max-body", "1536K", "1536K");
	set("max-body", "0.5M", "512K");
	set("max-body", "512M", "512M");
}

static void takes_words(void **state)
{
	static const char *const yes[] = {"yes", "true", "1", "on", "YES", "True"};
	static const char *const no[] = {"no", "false", "0", "off", "No"};

	(void)state;
	for (size_t i = 0; i < sizeof(yes) / sizeof(yes[0]); i++) {
		settings.dead_letter = false;
		set("dead-letter", yes[i], "yes");
		assert_true(settings.dead_letter);
	}
	for (size_t i = 0; i < sizeof(no) / sizeof(no[0]); i++) {
		settings.dead_letter = true;
		set("dead-letter", no[i], "no");
		assert_false(settings.dead_letter);
	}
	set("type", "quorum", "quorum");
	assert_int_equal(settings.type, MQFS_QUEUE_QUORUM);
	set("overflow", "drop-head", "drop-head");
	assert_int_equal(settings.overflow, MQFS_OVERFLOW_DROP_HEAD);
	set("ack-on", " read ", "read");
	assert_int_equal(settings.ack_on, MQFS_ACK_ON_READ);
	set("take-on", "move", "move");
	assert_int_equal(settings.take_on, MQFS_TAKE_ON_MOVE);
}

static void takes_numbers(void **state)
{
	(void)state;
	set("priority", "255", "255");
	set("priority", "007", "7");
	set("max-attempts", "1000", "1000");
	set("backoff-factor", "1.5", "1.5");
	assert_true(settings.backoff_factor == 1.5);
	set("backoff-factor", "1", "1");
}

static const struct {
	const char *name, *value;
} bad[] = {
    {"priority", "256"},
    {"priority", "-1"},
    {"priority", "1.5"},
    {"priority", ""},
    {"priority", "   "},
    {"priority", "."},
    {"priority", "1 2"},
    {"priority", "1s"},
    {"priority", "0x10"},
    {"priority", "1e1"},
    {"priority", "99999999999999999999999999999999"},
    {"prefetch", "0"},
    {"prefetch", "65536"},
    {"max-attempts", "0"},
    {"max-attempts", "1001"},
    {"look-max", "100001"},
    {"max-body", "0"},
    {"max-body", "513M"},
    {"max-body", "1G"},
    {"max-body", "1k"},
    {"max-body", "0.3"},
    {"claim-timeout", "999ms"},
    {"claim-timeout", "721h"},
    {"claim-timeout", "1m"},
    {"claim-timeout", "1d"},
    {"claim-timeout", "1 s s"},
    {"claim-timeout", "nan"},
    {"claim-timeout", "inf"},
    {"claim-timeout", "infinity"},
    {"claim-timeout", "+5"},
    {"claim-timeout", "1.2.3s"},
    {"claim-timeout", "1000.5ms"},
    {"claim-timeout", "5s\0010"},
    {"heartbeat", "1500ms"},
    {"heartbeat", "0"},
    {"backoff-factor", "0.9"},
    {"backoff-factor", "nan"},
    {"backoff-factor", "1,5"},
    {"backoff-factor", "101"},
    {"message-ttl", "1194h"},
    {"dead-letter", "maybe"},
    {"dead-letter", "2"},
    {"dead-letter", ""},
    {"type", "stream"},
    {"type", "Classic"},
    {"type", ""},
    {"ack-on", "rm read"},
    {"ack-on", "rmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrmrm"},
};

static void bad_values_change_nothing(void **state)
{
	struct mqfs_settings before;
	const char *error;

	(void)state;
	memcpy(&before, &settings, sizeof(before));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		error = NULL;
		assert_int_equal(mqfs_settings_set(&settings, bad[i].name, bad[i].value, &error), -EINVAL);
		assert_memory_equal(&settings, &before, sizeof(before));
		assert_non_null(strstr(error, bad[i].name));
		assert_int_equal(mqfs_settings_set(&settings, bad[i].name, bad[i].value, NULL), -EINVAL);
	}
	assert_int_equal(mqfs_settings_set(&settings, "no-such", "1", &error), -ENOENT);
	assert_non_null(error);
	assert_int_equal(mqfs_settings_set(&settings, "", "1", NULL), -ENOENT);
	assert_memory_equal(&settings, &before, sizeof(before));
}

static void good_values_change_one_setting(void **state)
{
	char value[64], text[64];

	(void)state;
	for (size_t i = 0; i < DEFAULTS; i++) {
		const char *other = defaults[i].value;

		mqfs_settings_init(&settings);
		/* some other good value of each: most take 2, the rest are named */
		if (mqfs_settings_set(&settings, defaults[i].name, strcmp(other, "2") == 0 ? "3" : "2", NULL) < 0 &&
		    mqfs_settings_set(&settings, defaults[i].name, strcmp(other, "no") == 0 ? "yes" : "read", NULL) <
		        0 &&
		    mqfs_settings_set(&settings, defaults[i].name, "move", NULL) < 0 &&
		    mqfs_settings_set(&settings, defaults[i].name, "quorum", NULL) < 0 &&
		    mqfs_settings_set(&settings, defaults[i].name, "drop-head", NULL) < 0 &&
		    mqfs_settings_set(&settings, defaults[i].name, "3min", NULL) < 0 &&
		    mqfs_settings_set(&settings, defaults[i].name, "no", NULL) < 0 &&
		    mqfs_settings_set(&settings, defaults[i].name, "64K", NULL) < 0)
			fail_msg("no other value for %s", defaults[i].name);
		for (size_t j = 0; j < DEFAULTS; j++) {
			assert_true(mqfs_settings_get(&settings, defaults[j].name, text, sizeof(text)) > 0);
			if (j == i)
				assert_string_not_equal(text, defaults[j].value);
			else
				assert_string_equal(text, defaults[j].value);
		}
		assert_true(mqfs_settings_get(&settings, defaults[i].name, value, sizeof(value)) > 0);
		mqfs_settings_init(&settings);
		set(defaults[i].name, value, value); /* what get writes, set takes */
	}
}

static void get_truncates(void **state)
{
	char text[4] = "xxx";

	(void)state;
	assert_int_equal(mqfs_settings_get(&settings, "overflow", text, sizeof(text)), 14);
	assert_string_equal(text, "rej");
	assert_int_equal(mqfs_settings_get(&settings, "overflow", NULL, 0), 14);
	assert_int_equal(mqfs_settings_get(&settings, "none", text, sizeof(text)), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(has_defaults, setup),
	    cmocka_unit_test(describes_every_setting),
	    cmocka_unit_test_setup(takes_times, setup),
	    cmocka_unit_test_setup(takes_sizes, setup),
	    cmocka_unit_test_setup(takes_words, setup),
	    cmocka_unit_test_setup(takes_numbers, setup),
	    cmocka_unit_test_setup(bad_values_change_nothing, setup),
	    cmocka_unit_test(good_values_change_one_setting),
	    cmocka_unit_test_setup(get_truncates, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
