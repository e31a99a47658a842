export DIB_KEEP_MIRRORS=${DIB_KEEP_MIRRORS:-0}
# yum-minimal takes repositories from a directory, and removes them again; the directory is made in root.d.
if [ "${DISTRO_NAME:-}" = centos ] && [ -n "${DIB_DISTRIBUTION_MIRROR:-}" ] && [ -n "${TMP_HOOKS_PATH:-}" ]; then
    export DIB_YUM_MINIMAL_BOOTSTRAP_REPOS=${DIB_YUM_MINIMAL_BOOTSTRAP_REPOS:-$TMP_HOOKS_PATH/distribution-mirrors/repos}
fi
