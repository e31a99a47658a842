export DISTRO_NAME=${KEPT_TREE_DISTRIBUTION:-rocky}
export DIB_RELEASE
export DIB_INIT_SYSTEM=systemd
export YUM=dnf
