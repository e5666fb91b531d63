// Disc of radius 1 about the origin without the disc of radius 0.3 about (0.2, 0).
SetFactory("OpenCASCADE");
Disk(1) = {0, 0, 0, 1};
Disk(2) = {0.2, 0, 0, 0.3};
BooleanDifference(3) = { Surface{1}; Delete; }{ Surface{2}; Delete; };
Mesh.MeshSizeMin = 0.12;
Mesh.MeshSizeMax = 0.12;
outline() = Boundary{ Surface{3}; };
Physical Curve("boundary") = {outline()};
Physical Surface("domain") = {3};
